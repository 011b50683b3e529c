"""An HTTP client whose connections lead to one port of one guest, wherever the sandbox is.

The guest's end of each connection is in the guest (its agent makes it), the other end is here.
Between them the bytes are carried by offset, through whichever worker has the sandbox. So a
request, a stream or a WebSocket goes on when the sandbox has moved, slept, or got another
worker process, and neither side of it notices more than a pause.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
from yarl import URL

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.controlplane.edge import Edge
from sandfleet.controlplane.proxy.port_pipe import PortPipe
from sandfleet.controlplane.proxy.session_carrier import SessionCarrier, SessionTarget
from sandfleet.model.errors import BadRequest, NotFound, OffsetGone, PortClosed, SandfleetError
from sandfleet.model.sandbox import Sandbox
from sandfleet.ports.coordination import Route

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.tracing import Trace

SILENCE_MAX_S = 3600.0
"""An application may be silent for so long between two pieces of an answer."""
HEADER_BYTES_MAX = 64 * 1024
HANG_UP_S = 5.0
"""So long is tried to tell the guest that a connection has ended; it also finds out by itself, later."""
ROOM_LOOKED_FOR_S = 0.01
_ORIGIN = "http://guest"
_LOST = (NotFound, OffsetGone, BadRequest)
"""What a guest says of a connection that it does not have any more, as after a restart."""


@dataclass(frozen=True, slots=True)
class GuestPort:
    """Which port of which sandbox, and for which request."""

    edge: Edge
    sandbox_id: str
    port: int
    request_id: str
    is_work: bool
    """Whether an open connection keeps the sandbox awake."""


class PortSession:
    """The client, and what has become of its connection."""

    def __init__(self, port: GuestPort, located: Route | Sandbox, group: TaskGroup) -> None:
        self._port = port
        self._located = located
        self._group = group
        self._failure: SandfleetError | None = None
        self._carried: set[asyncio.Task[None]] = set()
        self.http = aiohttp.ClientSession(
            connector=_Connector(self),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            timeout=aiohttp.ClientTimeout(total=None, sock_read=SILENCE_MAX_S),
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            trust_env=False,
        )

    def failure(self) -> SandfleetError:
        """Return why the connection broke: what the fleet knows of it, else that the port did."""
        return self._failure or PortClosed(f"port {self._port.port} broke the connection off")

    async def connect(self) -> socket.socket:
        """Return the local end of a new connection, once the guest's stands."""
        pipe = PortPipe()
        carrier = SessionCarrier(self._port.edge, pipe, self._target(), self._port.request_id)
        pipe.on_taken = carrier.changed.set
        carrying = self._group.create_task(self._carry(carrier, pipe))
        self._carried.add(carrying)
        try:
            attached = self._group.create_task(carrier.attached.wait())
            await asyncio.wait({carrying, attached}, return_when=asyncio.FIRST_COMPLETED)
            attached.cancel()
            if not carrier.attached.is_set():
                raise self.failure()
        except BaseException:
            pipe.theirs.close()
            carrying.cancel()
            raise
        return pipe.theirs

    async def close(self) -> None:
        """Hang up."""
        await self.http.close()
        if self._carried:
            await asyncio.wait(self._carried)

    async def _carry(self, carrier: SessionCarrier, pipe: PortPipe) -> None:
        """Carry bytes until either side has ended, and all is handed on."""
        try:
            async with TaskGroup() as group:
                carrying = group.create_task(self._outcome(carrier.carry(self._located), carrier))
                telling = group.create_task(_tell(carrier, pipe))
                handing = group.create_task(pipe.hand_on())
                await asyncio.wait({carrying, telling}, return_when=asyncio.FIRST_COMPLETED)
                if carrying.done():
                    pipe.end()
                    await asyncio.wait({handing, telling}, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.wait({carrying}, timeout=HANG_UP_S)
                for task in (carrying, telling, handing):
                    task.cancel()
        finally:
            pipe.close()

    async def _outcome(self, carrying: Coroutine[Any, Any, None], carrier: SessionCarrier) -> None:
        try:
            await carrying
        except _LOST as error:
            is_lost = carrier.attached.is_set()
            self._failure = PortClosed("the guest has lost the connection") if is_lost else error
        except SandfleetError as error:
            self._failure = error

    def _target(self) -> SessionTarget:
        return SessionTarget(
            sandbox_id=self._port.sandbox_id,
            kind="connections",
            session_id=secrets.token_hex(16),
            offset=0,
            port=self._port.port,
            is_work=self._port.is_work,
        )


@asynccontextmanager
async def port_session(port: GuestPort, located: Route | Sandbox) -> AsyncIterator[PortSession]:
    """Open a client that adds nothing of its own to what it is given; all of it ends on leaving."""
    failure: Exception | None = None
    async with TaskGroup() as group:
        session = PortSession(port, located, group)
        try:
            yield session
        except Exception as error:  # noqa: BLE001 -- raised again below, without a group around it
            failure = error
        finally:  # in good order after a failure as well: the guest is told
            await session.close()
    if failure is not None:
        raise failure


def guest_url(target: str) -> URL:
    """Return the URL of a target that is passed on byte for byte."""
    return URL(_ORIGIN + (target if target.startswith("/") else f"/{target}"), encoded=True)


class _Connector(aiohttp.BaseConnector):
    """Opens every connection to the port, whatever host the URL names."""

    def __init__(self, session: PortSession) -> None:
        super().__init__(force_close=True)
        self._session = session

    async def _create_connection(
        self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        connection = await self._session.connect()
        try:
            _, protocol = await asyncio.get_running_loop().create_connection(self._factory, sock=connection)
        except BaseException:
            connection.close()
            raise
        return protocol


async def _tell(carrier: SessionCarrier, pipe: PortPipe) -> None:
    """Take what the guest is to be told, but none while more than 1 MiB waits for it; then its end."""
    async for data in pipe.told():
        carrier.stdin.put(data)
        carrier.changed.set()
        while not carrier.stdin.has_room:
            await carrier.edge.plane.clock.sleep(ROOM_LOOKED_FOR_S)
    carrier.stdin.end()
    carrier.changed.set()
