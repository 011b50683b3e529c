"""POST ports/{port}: pass one HTTP request on to a port of the guest, streamed both ways.

The answer begins only when the guest's has: until then a failure is an error answer
of the worker, afterwards the answer is cut short, and the client notices.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.model.errors import BadRequest, PortClosed
from sandfleet.ports.hypervisor import Machine
from sandfleet.wire.port_frames import HeadReader, PortAnswer, PortRequest, encode_head, end_to_end
from sandfleet.worker.call import Call
from sandfleet.worker.guest_http import PIECE_BYTES, guest_session, guest_url

HEADERS = [(b"content-type", b"application/octet-stream")]
PORT_MAX = 65535


async def port_request(call: Call) -> Response:
    """Answer with what the port answers."""
    return PortRelay(call.resident.glance(), asked_port(call.request))


def asked_port(request: Request) -> int:
    """Return the port that the path names."""
    text = request.path_params["port"]
    if not text.isdecimal() or not 1 <= int(text[:6]) <= PORT_MAX:
        raise BadRequest(f"port must be between 1 and {PORT_MAX}")
    return int(text)


class Incoming:
    """The call's body: the head, then what follows it."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._head = HeadReader()
        self._more = True
        self._all_read = asyncio.Event()

    async def head(self) -> PortRequest:
        """Return the head; BadRequest when the body ends before it."""
        while self._more:
            head = self._head.feed(await self._piece(), PortRequest)
            if head is not None:
                return head
        raise BadRequest("the body ends within its head")

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the rest as it arrives."""
        first, self._head.rest = self._head.rest, b""
        if first:
            yield first
        while self._more:
            piece = await self._piece()
            if piece:
                yield piece
        self._all_read.set()

    async def left(self) -> None:
        """Return when the caller has gone; until all is read that shows at the reader."""
        await self._all_read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def nothing_follows(self) -> None:
        """Note that no more of the body will be asked for."""
        self._all_read.set()

    async def _piece(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self._more = message.get("more_body", False)
        return bytes(message.get("body", b""))


class PortRelay(Response):
    """The guest's answer on its way."""

    def __init__(self, machine: Machine, port: int) -> None:
        super().__init__()
        self._machine = machine
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        incoming = Incoming(receive)
        request = await incoming.head()
        if not request.has_body:
            incoming.nothing_follows()
        failure: Exception | None = None

        async def relay() -> None:
            nonlocal failure
            try:
                await self._relay(request, incoming, send)
            except Exception as error:  # noqa: BLE001 -- raised again below, without a group around it
                failure = error

        async with TaskGroup() as group:
            relaying = group.create_task(relay())
            watching = group.create_task(incoming.left())
            await asyncio.wait({relaying, watching}, return_when=asyncio.FIRST_COMPLETED)
            relaying.cancel()
            watching.cancel()
        if failure is not None:
            raise failure

    async def _relay(self, request: PortRequest, incoming: Incoming, send: Send) -> None:
        async with guest_session(self._machine, self._port) as session:
            try:
                answer = await session.request(
                    request.method,
                    guest_url(request.target),
                    headers=request.headers,
                    data=incoming.pieces() if request.has_body else None,
                    allow_redirects=False,
                )
            except (aiohttp.ClientError, OSError) as error:
                raise PortClosed(f"port {self._port} broke the connection off") from error
            try:
                await _pass_on(answer, send)
            finally:
                answer.close()


async def _pass_on(answer: aiohttp.ClientResponse, send: Send) -> None:
    head = PortAnswer(status=answer.status, headers=end_to_end(decoded(answer.raw_headers)))
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": encode_head(head), "more_body": True})
    async for piece in answer.content.iter_chunked(PIECE_BYTES):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def decoded(headers: tuple[tuple[bytes, bytes], ...]) -> list[tuple[str, str]]:
    """Return raw headers as text that can be encoded back to the same bytes."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
