"""A proxy before an object store that does to requests what networks and stores do to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from urllib.parse import quote, unquote

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding"}


@dataclass
class Faults:
    """What happens to which requests; each is asked for every request, with its method and path."""

    refuses: Callable[[str, str], int | None] = lambda _method, _path: None
    """The status to answer with instead of asking the store."""
    tears: Callable[[str, str], bool] = lambda _method, _path: False
    """Whether the store gets only the first half of the body."""
    spoils: Callable[[str, str], bool] = lambda _method, _path: False
    """Whether the answer's bytes are changed on the way."""
    delay: Callable[[str, str], float] = lambda _method, _path: 0.0
    replaces: Mapping[str, str] = field(default_factory=dict)
    """Headers that the store gets in place of the client's own."""
    has_plain_paths: bool = False
    """Whether the store gets paths without needless escapes: the S3 server takes `b%2D1` for a name."""
    requests: int = 0


@asynccontextmanager
async def faulty_proxy(backend: str, faults: Faults) -> AsyncIterator[str]:
    """Serve the store at `backend` through `faults`; yields the proxy's URL."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def handle(request: web.Request) -> web.Response:
            faults.requests += 1
            method, path = request.method, request.path
            body = await request.read()
            refused = faults.refuses(method, path)
            if refused is not None:
                return web.Response(status=refused, text="<Error><Code>InternalError</Code></Error>")
            await asyncio.sleep(faults.delay(method, path))
            if faults.tears(method, path):
                body = body[: len(body) // 2]
            headers = CIMultiDict(
                (name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP
            )
            headers.update(faults.replaces)
            raw_path = request.raw_path
            if faults.has_plain_paths:
                escaped, mark, query = raw_path.partition("?")
                raw_path = quote(unquote(escaped)) + mark + query
            target = URL(f"{backend}{raw_path}", encoded=True)
            async with session.request(
                method, target, headers=headers, data=BytesIO(body) if body else None
            ) as answer:
                content = await answer.read()
                if faults.spoils(method, path) and content:
                    content = content[:-1] + bytes([content[-1] ^ 1])
                kept = CIMultiDict(
                    (name, value) for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP
                )
                if method == "HEAD":
                    kept["Content-Length"] = answer.headers.get("Content-Length", "0")
                return web.Response(status=answer.status, headers=kept, body=content)

        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            await runner.cleanup()
