"""Sending a worker's answer on to the client, piece by piece and at the client's pace."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import structlog

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.controlplane.http.call import Call
from sandfleet.model.errors import SandfleetError
from sandfleet.ports.data_plane import DataPlaneAnswer

log = structlog.get_logger(__name__)

KEPT_HEADERS = ("content-type", "content-length", "last-modified", "etag")


class RelayedAnswer:
    """A streamed answer; the connection to the worker ends when the client goes away."""

    def __init__(self, answer: DataPlaneAnswer, stack: AsyncExitStack) -> None:
        self._answer = answer
        self._stack = stack

    async def send_to(self, call: Call) -> None:
        """Send head and body. A body that breaks off is left incomplete, so that the client notices."""
        async with self._stack:
            known = self._answer.headers
            headers = [
                (name.encode(), known[name].encode("latin-1")) for name in KEPT_HEADERS if name in known
            ]
            await call.send(
                {"type": "http.response.start", "status": self._answer.status, "headers": headers}
            )
            if call.method == "HEAD":
                await call.send({"type": "http.response.body", "body": b""})
                return
            async with TaskGroup() as group:
                sending = group.create_task(self._send_body(call))
                watching = group.create_task(client_left(call))
                await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
                sending.cancel()
                watching.cancel()

    async def _send_body(self, call: Call) -> None:
        try:
            async for piece in self._answer.pieces():
                await call.send({"type": "http.response.body", "body": piece, "more_body": True})
        except SandfleetError as error:
            log.warning("a body broke off", request_id=call.request_id, reason=error.message)
            return
        await call.send({"type": "http.response.body", "body": b""})


async def client_left(call: Call) -> None:
    """Return when the client has closed its connection."""
    while (await call.receive())["type"] != "http.disconnect":
        pass
