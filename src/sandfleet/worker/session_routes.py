"""The routes of exec sessions, terminals and connections to ports."""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from sandfleet.model.errors import BadRequest
from sandfleet.wire.exec_request import valid_exec_id
from sandfleet.worker.edge import DataPlane, asked_epoch
from sandfleet.worker.host import Host
from sandfleet.worker.operations.session_attach import Wanted, attach
from sandfleet.worker.operations.session_create import session_create
from sandfleet.worker.operations.session_kill import session_kill
from sandfleet.worker.operations.session_list import session_get, session_list
from sandfleet.worker.operations.terminal import (
    terminal_create,
    terminal_delete,
    terminal_get,
    terminal_resize,
)

PORT_MAX = 65535
_VERBS = (
    ("POST", "exec", session_create),
    ("GET", "exec", session_list),
    ("GET", "exec/{exec_id}", session_get),
    ("POST", "exec/{exec_id}/kill", session_kill),
    ("POST", "pty", terminal_create),
    ("GET", "pty/{exec_id}", terminal_get),
    ("POST", "pty/{exec_id}/resize", terminal_resize),
    ("DELETE", "pty/{exec_id}", terminal_delete),
)


class SessionSocket:
    """Endpoint of the sockets of sessions or terminals. It never counts as work in flight."""

    def __init__(self, host: Host, *, has_terminal: bool) -> None:
        self._host = host
        self._has_terminal = has_terminal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._host.require_adopted()
        wanted = Wanted.of(scope, has_terminal=self._has_terminal)
        epoch = asked_epoch(HTTPConnection(scope))
        resident = self._host.residents.serving(scope["path_params"]["sandbox_id"], epoch=epoch)
        await attach(self._host, resident, wanted, receive, send)


class ConnectionSocket:
    """Endpoint of connections to ports: each is made by whoever is attached first, and says the port."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._host.require_adopted()
        wanted = Wanted.of(scope, has_terminal=False)
        request = HTTPConnection(scope)
        resident = self._host.residents.serving(
            scope["path_params"]["sandbox_id"], epoch=asked_epoch(request)
        )
        is_work = request.query_params.get("work") == "true"
        async with resident.activity() if is_work else resident.attachment() as machine:
            port = request.query_params.get("port")
            if port is not None:
                await machine.guest.connect_port(valid_exec_id(wanted.exec_id), asked_port(port))
            await attach(self._host, resident, wanted, receive, send)


def asked_port(text: str) -> int:
    """Return the port that a query names."""
    if not text.isdecimal() or not 1 <= int(text[:6]) <= PORT_MAX:
        raise BadRequest(f"port must be between 1 and {PORT_MAX}")
    return int(text)


def session_routes(host: Host, root: str) -> list[BaseRoute]:
    """Return them below `root`; they stand after `exec/run` and its like, which are no ids."""
    return [
        *(
            Route(f"{root}/{path}", DataPlane(host, verb, name=verb.__name__), methods=[method])
            for method, path, verb in _VERBS
        ),
        WebSocketRoute(f"{root}/exec/{{exec_id}}", SessionSocket(host, has_terminal=False)),
        WebSocketRoute(f"{root}/pty/{{exec_id}}", SessionSocket(host, has_terminal=True)),
        WebSocketRoute(f"{root}/connections/{{exec_id}}", ConnectionSocket(host)),
    ]
