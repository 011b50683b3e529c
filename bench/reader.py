"""A client that does next to nothing but ask again, over connections that stay open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

_OK = b"HTTP/1.1 200"
_LENGTH = b"content-length:"


async def read_often(
    urls: Sequence[str], *, count: int, headers: Mapping[str, str] | None = None
) -> list[float]:
    """Send so many GETs, one connection for each URL; return what they took. Anything but 200 ends it."""
    each = -(-count // len(urls))
    took = await asyncio.gather(*(_one(url, headers or {}, count=each) for url in urls))
    return [seconds for one in took for seconds in one]


async def _one(url: str, headers: Mapping[str, str], *, count: int) -> list[float]:
    parts = urlsplit(url)
    lines = [f"GET {parts.path} HTTP/1.1", f"host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    request = ("\r\n".join(lines) + "\r\n\r\n").encode()
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
    took = []
    try:
        for _ in range(count):
            began = time.perf_counter()
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not head.startswith(_OK.lower()):
                raise RuntimeError(head.decode(errors="replace"))
            (length,) = [line for line in head.split(b"\r\n") if line.startswith(_LENGTH)]
            await reader.readexactly(int(length[len(_LENGTH) :]))
            took.append(time.perf_counter() - began)
    finally:
        writer.close()
        await writer.wait_closed()
    return took
