"""GET files: stream a file out of the guest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sandfleet.model.errors import BadRequest, SandfleetError, TooLarge
from sandfleet.wire.file_requests import required_path
from sandfleet.worker.call import STALLED_AFTER_S, Call

OCTETS = "application/octet-stream"
_UNSIZED_BYTES_MAX = 1024 * 1024


async def file_read(call: Call) -> Response:
    """Answer with the content; its length is that of the moment the answer begins."""
    path = required_path(call.query("path"))
    entry = await call.guest.stat(path)
    if entry.is_dir:
        raise BadRequest(f"{path} is a directory", code="is_directory")
    if entry.size > call.host.limits.file_bytes_max:
        raise TooLarge(f"{path} is larger than {call.host.limits.file_bytes_max} bytes")
    if call.request.method == "HEAD":
        return Response(headers={"Content-Length": str(entry.size)}, media_type=OCTETS)
    if entry.size == 0:
        return Response(await _unsized(call, path), media_type=OCTETS)
    content = call.guest.read_file(path)
    first = await anext(content, b"")
    return FileAnswer(call, first, content, size=entry.size)


async def _unsized(call: Call, path: str) -> bytes:
    """Return the content of an empty file, or of one whose size the kernel does not say (`/proc`)."""
    parts = bytearray()
    async with aclosing(_closable(call.guest.read_file(path))) as content:
        async for chunk in content:
            parts += chunk
            if len(parts) > _UNSIZED_BYTES_MAX:
                raise BadRequest(f"{path} has no size")
    return bytes(parts)


class FileAnswer(Response):
    """Streams as fast as the client takes it; the guest is read no further ahead."""

    def __init__(self, call: Call, first: bytes, content: AsyncIterator[bytes], *, size: int) -> None:
        super().__init__(headers={"Content-Length": str(size)}, media_type=OCTETS)
        self._request = call.request
        self._first = first
        self._content = content
        self._left = size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send head and content; a file that shrinks meanwhile ends in an answer cut short."""
        async with aclosing(_closable(self._content)) as content:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._send(self._first, send)
            while self._left > 0:
                chunk = await anext(content, b"")
                if not chunk:
                    raise ContentChanged("the file became shorter while it was read")
                await self._send(chunk, send)

    async def _send(self, chunk: bytes, send: Send) -> None:
        """Send what of the chunk belongs to the answer (a file may grow meanwhile)."""
        if await self._request.is_disconnected():
            raise ClientDisconnect
        part = chunk[: self._left]
        self._left -= len(part)
        async with asyncio.timeout(STALLED_AFTER_S):
            await send({"type": "http.response.body", "body": part, "more_body": self._left > 0})


class ContentChanged(SandfleetError):
    """The file is no longer what the answer's head promised."""


async def _closable(content: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Pass chunks on, and close the source with this generator."""
    try:
        async for chunk in content:
            yield chunk
    finally:
        if isinstance(content, AsyncGenerator):
            await content.aclose()
