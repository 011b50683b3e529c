"""A WebSocket into a guest port.

The guest decides on the handshake: its subprotocol, or its refusal, is what the client
gets. A sandbox that is not ready within `HANDSHAKE_WAIT_S` is waited for with the socket open,
because clients give a handshake little time; then the first protocol offered is taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import msgspec
import structlog

from sandfleet.controlplane.http.call import Call
from sandfleet.controlplane.proxy.forward import Forwarding, open_answer
from sandfleet.controlplane.proxy.preview import admitted, port_request, read_head, refusal
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
from sandfleet.ports.data_plane import DataPlaneRequest
from sandfleet.wire.port_frames import Close, FrameKind, FrameReader, encode_frame, encode_head

log = structlog.get_logger(__name__)

HANDSHAKE_WAIT_S = 5.0
SILENCE_MAX_S = 86_400.0
TRY_LATER, GONE, UNKNOWN, BROKEN = 1013, 4410, 4404, 1011


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
            async with AsyncExitStack() as stack:
                forwarding = Forwarding(
                    make=lambda: self._request(sandbox), may_repeat=lambda: not self._open.is_set()
                )
                answer = await open_answer(self._call, route, forwarding, stack=stack)
                await self._follow(answer.pieces())
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

    def _request(self, sandbox: Sandbox) -> DataPlaneRequest:
        head = port_request(self._call, sandbox, method="GET", has_body=True)
        head = msgspec.structs.replace(head, protocols=self._offered)
        return DataPlaneRequest(
            "POST",
            f"/sandboxes/{self._host.sandbox_id}/ports/{self._host.port}/socket",
            {"Content-Type": "application/octet-stream"},
            self._up(encode_head(head)),
            silence_max_s=SILENCE_MAX_S,
        )

    async def _up(self, head: bytes) -> AsyncIterator[bytes]:
        """Yield what the client says, once it has been let in."""
        yield head
        await self._open.wait()
        while True:
            message = await self._call.receive()
            if message["type"] == "websocket.disconnect":
                self._is_over = True
                close = Close(code=_sendable(message.get("code")), reason=message.get("reason") or "")
                yield encode_frame(FrameKind.CLOSE, msgspec.json.encode(close))
                return
            text = message.get("text")
            if text is not None:
                yield encode_frame(FrameKind.TEXT, text.encode("utf-8", "replace"))
            else:
                yield encode_frame(FrameKind.BINARY, message.get("bytes") or b"")

    async def _follow(self, pieces: AsyncIterator[bytes]) -> None:
        """Let the client in if the guest did, and send what the guest says until it closes."""
        head, first = await read_head(pieces)
        if head.status != 101:
            await self._reject(head.status, head.headers)
            return
        await self._accept(head.protocol)
        frames = FrameReader()
        if await self._deliver(frames, first):
            return
        async for piece in pieces:
            if await self._deliver(frames, piece):
                return
        await self._close(BROKEN, "the guest broke the connection off")

    async def _deliver(self, frames: FrameReader, data: bytes) -> bool:
        for kind, payload in frames.feed(data):
            if kind is FrameKind.CLOSE:
                close = msgspec.json.decode(payload, type=Close)
                await self._close(_sendable(close.code), close.reason)
                return True
            if kind is FrameKind.TEXT:
                await self._call.send({"type": "websocket.send", "text": payload.decode()})
            else:
                await self._call.send({"type": "websocket.send", "bytes": payload})
        return False

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
