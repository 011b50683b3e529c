"""A WebSocket into a guest port.

The guest decides on the handshake: its subprotocol, or its refusal, is what the client
gets. A sandbox that is not ready within `HANDSHAKE_WAIT_S` is waited for with the socket open,
because clients give a handshake little time; then the first protocol offered is taken.
"""

from __future__ import annotations

import asyncio

import aiohttp
import structlog

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.controlplane.http.call import Call
from sandfleet.controlplane.proxy.port_session import PortSession, guest_url, port_session
from sandfleet.controlplane.proxy.preview import admitted, guest_port, port_request, refusal
from sandfleet.controlplane.proxy.preview_gate import PreviewHost
from sandfleet.controlplane.proxy.readiness import gone, locate_by_row, wait_until_ready
from sandfleet.model.errors import (
    Gone,
    NotFound,
    NotReady,
    PortClosed,
    SandfleetError,
    Unauthorised,
    Unavailable,
)
from sandfleet.model.sandbox import Sandbox
from sandfleet.ports.coordination import Route
from sandfleet.wire.port_headers import end_to_end

log = structlog.get_logger(__name__)

HANDSHAKE_WAIT_S = 5.0
MESSAGE_BYTES_MAX = 16 * 1024 * 1024
CLOSE_TIMEOUT_S = 5.0
TRY_LATER, GONE, UNKNOWN, BROKEN = 1013, 4410, 4404, 1011
_OWN = ("sec-websocket-",)


class PreviewSocket:
    """One socket between a client and a guest."""

    def __init__(self, call: Call, host: PreviewHost) -> None:
        self._call = call
        self._host = host
        self._offered: list[str] = list(call.scope.get("subprotocols") or ())
        self._open = asyncio.Event()
        self._is_over = False

    async def serve(self) -> None:
        """Serve it to its end; a refusal is an HTTP status before the handshake, a close code after it."""
        await self._call.receive()  # `websocket.connect`
        with self._call.edge.metrics.socket_clients.labels("preview").track_inprogress():
            await self._serve()

    async def _serve(self) -> None:
        try:
            sandbox = await admitted(self._call, self._host)
            route = await self._route(sandbox)
            async with port_session(guest_port(self._call, self._host, is_work=False), route) as session:
                await self._speak(sandbox, session)
        except SandfleetError as error:
            await self._refuse(error)
        except Exception as error:  # a defect is told and logged
            log.error("preview socket failed", request_id=self._call.request_id, exc_info=error)
            await self._refuse(SandfleetError("internal error"))

    async def _route(self, sandbox: Sandbox) -> Route:
        located = await locate_by_row(self._call.edge, sandbox.organisation_id, sandbox.id)
        if isinstance(located, Route):
            return located
        try:
            return await wait_until_ready(self._call.edge, located, seconds=HANDSHAKE_WAIT_S)
        except NotReady:
            await self._accept(self._offered[0] if self._offered else None)
        wait_s = self._call.edge.plane.settings.sandbox_wait_s - HANDSHAKE_WAIT_S
        return await wait_until_ready(self._call.edge, located, seconds=wait_s)

    async def _speak(self, sandbox: Sandbox, session: PortSession) -> None:
        """Let the client in if the guest does, and pass on what either says until one closes."""
        request = port_request(self._call, sandbox)
        try:
            guest = await session.http.ws_connect(
                guest_url(request.target),
                protocols=self._offered,
                headers=[pair for pair in request.headers if not pair[0].lower().startswith(_OWN)],
                max_msg_size=MESSAGE_BYTES_MAX,
                autoclose=False,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
            )
        except aiohttp.WSServerHandshakeError as error:
            refused = [(str(name), str(value)) for name, value in (error.headers or {}).items()]
            await self._reject(error.status, end_to_end(refused))
            return
        except (aiohttp.ClientError, OSError):
            raise session.failure() from None
        await self._accept(guest.protocol)
        async with TaskGroup() as group:
            down = group.create_task(self._down(guest))
            up = group.create_task(self._up(guest))
            await asyncio.wait({down, up}, return_when=asyncio.FIRST_COMPLETED)
            if not down.done():  # the client has closed: the guest may still say so itself
                await asyncio.wait({down}, timeout=CLOSE_TIMEOUT_S)
            is_broken = down.done() and not down.result()
            down.cancel()
            up.cancel()
        if is_broken and not self._is_over:
            raise session.failure()

    async def _down(self, guest: aiohttp.ClientWebSocketResponse) -> bool:
        """Send what the guest says; return whether it has closed, and not broken off."""
        while True:
            message = await guest.receive()
            if message.type is aiohttp.WSMsgType.TEXT:
                await self._call.send({"type": "websocket.send", "text": message.data})
            elif message.type is aiohttp.WSMsgType.BINARY:
                await self._call.send({"type": "websocket.send", "bytes": message.data})
            elif message.type is aiohttp.WSMsgType.CLOSE:
                await self._close(_sendable(guest.close_code), str(message.extra or ""))
                return True
            else:
                return False

    async def _up(self, guest: aiohttp.ClientWebSocketResponse) -> None:
        """Give the guest what the client says."""
        try:
            while True:
                message = await self._call.receive()
                if message["type"] == "websocket.disconnect":
                    self._is_over = True
                    reason = (message.get("reason") or "").encode()
                    await guest.close(code=_sendable(message.get("code")), message=reason)
                    return
                text = message.get("text")
                if text is not None:
                    await guest.send_str(text)
                else:
                    await guest.send_bytes(message.get("bytes") or b"")
        except (aiohttp.ClientError, OSError):
            return  # whoever hears the guest says how it ended

    async def _accept(self, protocol: str | None) -> None:
        if not self._open.is_set():
            await self._call.send({"type": "websocket.accept", "subprotocol": protocol})
            self._open.set()

    async def _refuse(self, error: SandfleetError) -> None:
        if not self._open.is_set():
            answer = refusal(self._call, error)
            told = [*answer.headers.items(), ("content-type", answer.media_type or "")]
            await self._reject(answer.status, told, body=answer.body)
            return
        if isinstance(error, Unavailable):
            error = await self._cause(error)
        log.info("preview socket ends", request_id=self._call.request_id, reason=error.message)
        await self._close(_close_code(error), error.message)

    async def _cause(self, broken: Unavailable) -> SandfleetError:
        """Return that the sandbox has ended, if that is why its worker broke off."""
        try:
            sandbox = await self._call.edge.plane.stores.sandboxes.get_any(self._host.sandbox_id)
        except SandfleetError:
            return broken
        return gone(sandbox) if sandbox.is_terminal else broken

    async def _reject(self, status: int, headers: list[tuple[str, str]], *, body: bytes = b"") -> None:
        if self._open.is_set():
            await self._close(BROKEN, f"the guest refused with {status}")
            return
        self._is_over = True
        if "websocket.http.response" not in self._call.scope.get("extensions", {}):
            await self._call.send({"type": "websocket.close", "code": BROKEN})
            return
        kept = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in headers
            if name.lower() != "content-length"
        ]
        await self._call.send({"type": "websocket.http.response.start", "status": status, "headers": kept})
        await self._call.send({"type": "websocket.http.response.body", "body": body})

    async def _close(self, code: int, reason: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        await self._call.send({"type": "websocket.close", "code": code, "reason": reason[:120]})


def _close_code(error: SandfleetError) -> int:
    if isinstance(error, Gone):
        return GONE
    if isinstance(error, (NotFound, Unauthorised)):
        return UNKNOWN
    return BROKEN if isinstance(error, PortClosed) else TRY_LATER


def _sendable(code: int | None) -> int:
    """Return a code that may stand in a close frame; some only say that there was none."""
    if code is None or code in (1004, 1005, 1006, 1015) or not 1000 <= code <= 4999:
        return 1000 if code == 1005 else 1001
    return code
