"""A client that does next to nothing but ask again, over connections that stay open."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

_OK = b"HTTP/1.1 200"
_LENGTH = b"content-length:"


async def read_often(
    url: str, *, count: int, connections: int, headers: Mapping[str, str] | None = None
) -> None:
    """Send so many GETs, each connection one after the other; anything but 200 ends it."""
    parts = urlsplit(url)
    lines = [f"GET {parts.path} HTTP/1.1", f"host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    request = ("\r\n".join(lines) + "\r\n\r\n").encode()
    each = -(-count // connections)
    one = (_one(str(parts.hostname), parts.port or 80, request, count=each) for _ in range(connections))
    await asyncio.gather(*one)


async def _one(host: str, port: int, request: bytes, *, count: int) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        for _ in range(count):
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not head.startswith(_OK.lower()):
                raise RuntimeError(head.decode(errors="replace"))
            (length,) = [line for line in head.split(b"\r\n") if line.startswith(_LENGTH)]
            await reader.readexactly(int(length[len(_LENGTH) :]))
    finally:
        writer.close()
        await writer.wait_closed()
