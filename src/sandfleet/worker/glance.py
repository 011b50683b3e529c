"""Endpoint of an operation that only looks: no gate is held, and the sandbox's idle time goes on."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from sandfleet.worker.call import Call
from sandfleet.worker.edge import Operation, asked_epoch
from sandfleet.worker.host import Host


class Glance:
    """Checks the epoch as the data plane does, and no more."""

    def __init__(self, host: Host, operation: Operation) -> None:
        self._host = host
        self._operation = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self._host.require_adopted()
        sandbox_id = scope["path_params"]["sandbox_id"]
        resident = self._host.residents.serving(sandbox_id, epoch=asked_epoch(request))
        guest = resident.glance().guest
        response = await self._operation(
            Call(host=self._host, resident=resident, guest=guest, request=request)
        )
        await response(scope, receive, send)
