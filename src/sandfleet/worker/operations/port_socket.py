"""POST ports/{port}/socket: a WebSocket into the guest, as frames in both bodies of one call at once.

An open and silent socket does not keep the sandbox awake; each message does. When the
VM leaves, the call ends with all other work on it.
"""

from __future__ import annotations

import asyncio

import aiohttp
import msgspec
import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.model.errors import PortClosed, SandfleetError
from sandfleet.ports.hypervisor import Machine
from sandfleet.wire.port_frames import (
    Close,
    FrameKind,
    FrameReader,
    PortAnswer,
    PortRequest,
    encode_frame,
    encode_head,
    end_to_end,
)
from sandfleet.worker.call import Call
from sandfleet.worker.guest_http import guest_session, guest_url
from sandfleet.worker.operations.port_request import HEADERS, Incoming, asked_port
from sandfleet.worker.residents import Resident

log = structlog.get_logger("sandfleet.worker")
MESSAGE_BYTES_MAX = 16 * 1024 * 1024
CLOSE_TIMEOUT_S = 5.0
_OWN = ("sec-websocket-",)


async def port_socket(call: Call) -> Response:
    """Answer with what the guest's socket says."""
    return SocketRelay(call.resident, asked_port(call.request))


class SocketRelay(Response):
    """One WebSocket."""

    def __init__(self, resident: Resident, port: int) -> None:
        super().__init__()
        self._resident = resident
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        incoming = Incoming(receive)
        request = await incoming.head()
        async with self._resident.attachment() as machine:
            await self._serve(machine, request, incoming, send)

    async def _serve(self, machine: Machine, request: PortRequest, incoming: Incoming, send: Send) -> None:
        async with guest_session(machine, self._port) as session:
            try:
                guest = await session.ws_connect(
                    guest_url(request.target),
                    protocols=request.protocols,
                    headers=[
                        (name, value) for name, value in request.headers if not name.lower().startswith(_OWN)
                    ],
                    max_msg_size=MESSAGE_BYTES_MAX,
                    autoclose=False,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
                )
            except aiohttp.WSServerHandshakeError as error:
                headers = [(str(name), str(value)) for name, value in (error.headers or {}).items()]
                await _answer(send, PortAnswer(status=error.status, headers=end_to_end(headers)))
                await send({"type": "http.response.body", "body": b""})
                return
            except (aiohttp.ClientError, OSError) as error:
                raise PortClosed(f"port {self._port} broke the connection off") from error
            await _answer(send, PortAnswer(status=101, headers=[], protocol=guest.protocol))
            await self._exchange(guest, incoming, send)

    async def _exchange(self, guest: aiohttp.ClientWebSocketResponse, incoming: Incoming, send: Send) -> None:
        self._resident.touch()
        async with TaskGroup() as group:
            down = group.create_task(self._down(guest, send))
            up = group.create_task(self._up(guest, incoming))
            await asyncio.wait({down, up}, return_when=asyncio.FIRST_COMPLETED)
            if up.done() and not down.done():  # the client has closed: the guest may still say so itself
                await asyncio.wait({down}, timeout=CLOSE_TIMEOUT_S)
            down.cancel()
            up.cancel()
        await guest.close()
        await send({"type": "http.response.body", "body": b""})

    async def _down(self, guest: aiohttp.ClientWebSocketResponse, send: Send) -> None:
        while True:
            message = await guest.receive()
            if message.type is aiohttp.WSMsgType.TEXT:
                frame = encode_frame(FrameKind.TEXT, message.data.encode())
            elif message.type is aiohttp.WSMsgType.BINARY:
                frame = encode_frame(FrameKind.BINARY, message.data)
            else:
                close = Close(code=guest.close_code or 1006, reason=str(message.extra or "")[:120])
                frame = encode_frame(FrameKind.CLOSE, msgspec.json.encode(close))
                await send({"type": "http.response.body", "body": frame, "more_body": True})
                return
            self._resident.touch()
            await send({"type": "http.response.body", "body": frame, "more_body": True})

    async def _up(self, guest: aiohttp.ClientWebSocketResponse, incoming: Incoming) -> None:
        frames = FrameReader()
        try:
            async for piece in incoming.pieces():
                for kind, payload in frames.feed(piece):
                    self._resident.touch()
                    if kind is FrameKind.CLOSE:
                        close = msgspec.json.decode(payload, type=Close)
                        await guest.close(code=close.code, message=close.reason.encode())
                        return
                    if kind is FrameKind.TEXT:
                        await guest.send_str(payload.decode("utf-8", "replace"))
                    else:
                        await guest.send_bytes(payload)
        except ClientDisconnect:
            await guest.close(code=1001)
        except (aiohttp.ClientError, ConnectionError, SandfleetError, msgspec.DecodeError) as error:
            log.info("port_socket_broke", sandbox=self._resident.sandbox_id, reason=str(error))


async def _answer(send: Send, head: PortAnswer) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": encode_head(head), "more_body": True})
