"""One replica of the control plane: the real operations, loops and endpoints on simulated adapters."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.controlplane.app import ENDPOINTS
from sandfleet.controlplane.background import Background
from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.edge import Edge
from sandfleet.controlplane.http.authentication import Principal
from sandfleet.controlplane.http.call import Call, Endpoint
from sandfleet.controlplane.http.drain import Drain
from sandfleet.controlplane.http.metrics import Metrics
from sandfleet.controlplane.http.serving import serve
from sandfleet.controlplane.operations.fleet import Fleet
from sandfleet.model.organisation import Scope
from sandfleet.testing.builders import ORGANISATION
from sandfleet.testing.memory.coordination import MemoryWakeUps
from sandfleet.testing.simulation.loop import Process, VirtualLoop
from sandfleet.wire.worker_messages import Heartbeat, HeartbeatAnswer

_BY_ROUTE: dict[tuple[str, str], Endpoint] = {
    (endpoint.method, path): endpoint for endpoint in ENDPOINTS for path in endpoint.paths
}
_METRICS = Metrics()


class _OpenDoor:
    """Lets everybody in: credentials are not what is simulated."""

    async def authenticate(self, *_: object, **__: object) -> Principal:
        return Principal(ORGANISATION, frozenset(Scope))


class _NoTokens:
    def sandbox_token(self, *_: object) -> str:
        return "token"


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; `route` is a path template and `values` fill it."""

    method: str
    route: str
    values: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    key: str | None = None
    query: str = ""

    @property
    def path(self) -> str:
        """The path that a client would send."""
        return self.route.format(**self.values)


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to a request."""

    status: int
    body: Any = None


class Replica:
    """One process. `plane` says what it is made of."""

    def __init__(self, plane: ControlPlane, process: Process, loop: VirtualLoop) -> None:
        self.process = process
        self.plane = plane
        self._loop = loop
        self._stop = asyncio.Event()
        self._edge: Edge | None = None
        self.fleet: Fleet | None = None
        self._main = process.start(loop, self._run(), name="main")
        self._main.add_done_callback(self._ended)

    @property
    def is_serving(self) -> bool:
        """Whether a client that connects is served."""
        return self._edge is not None and not self.process.is_dead and not self._stop.is_set()

    @property
    def is_stopping(self) -> bool:
        """Whether it was asked to end."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Ask it to end in order: its operations are let go."""
        if self._edge is not None:
            self._edge.drain.hurry()
        self._stop.set()

    async def _run(self) -> None:
        async with AsyncExitStack() as stack:
            background = Background(await stack.enter_async_context(TaskGroup()))
            stack.callback(background.cancel_all)
            self.fleet = Fleet(self.plane)
            lifecycle = await stack.enter_async_context(self.fleet.running())
            self._edge = Edge(
                plane=self.plane,
                lifecycle=lifecycle,
                data_plane=cast(Any, None),
                tokens=cast(Any, _NoTokens()),
                keys=cast(Any, None),
                authenticator=cast(Any, _OpenDoor()),
                background=background,
                drain=Drain(),
                metrics=_METRICS,
                rates=cast(Any, None),  # no organisation here has a rate
            )
            await self._stop.wait()

    def _ended(self, _: object) -> None:
        self.process.is_dead = True
        cast(MemoryWakeUps, self.plane.wake_ups).close()
        for task in list(self.process.tasks):
            task.cancel()

    def heard(self, beat: Heartbeat) -> asyncio.Future[HeartbeatAnswer]:
        """Take a worker's heartbeat in."""
        if not self.is_serving or self.fleet is None:
            raise ConnectionRefusedError
        return self.process.start(self._loop, self.fleet.record_heartbeat(beat), name="heartbeat")

    def serve(self, request: Request) -> asyncio.Future[Response]:
        """Serve a request in this process, to its end whoever waits."""
        if not self.is_serving:
            raise ConnectionRefusedError
        return self.process.start(self._loop, self._serve(request), name=request.path)

    async def _serve(self, request: Request) -> Response:
        assert self._edge is not None
        headers = [(b"idempotency-key", request.key.encode())] if request.key else []
        scope = {
            "type": "http",
            "method": request.method,
            "path": request.path,
            "query_string": request.query.encode(),
            "headers": headers,
            "scheme": "http",
        }
        endpoint = _BY_ROUTE[request.method, request.route]
        call = Call(self._edge, endpoint, scope=scope, request_id="request", values=request.values)
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": msgspec.json.encode(request.body or {})}

        async def send(message: Any) -> None:
            sent.append(message)

        call.receive, call.send = receive, send
        await serve(call)
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return Response(sent[0]["status"], msgspec.json.decode(body) if body else None)
