"""An application inside a guest, for previews: echoes, streams, sets cookies, speaks WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import WSMsgType, web
from websockets.asyncio.client import connect

PORT = 3000
"""Under which a sandbox shows it in these tests."""
LARGE_BYTES = 12 * 2**20
MAY_GO_ON = web.AppKey("may_go_on", asyncio.Event)


@asynccontextmanager
async def guest_app() -> AsyncIterator[int]:
    """Run it and yield its local port."""
    app = web.Application(client_max_size=2**30)
    app.router.add_get("/ws", _socket)
    app.router.add_get("/no-ws", _refusal)
    app.router.add_get("/sse", _events)
    app[MAY_GO_ON] = asyncio.Event()
    app.router.add_post("/sse", _go_on)
    app.router.add_get("/cookies", _cookies)
    app.router.add_get("/large", _large)
    app.router.add_get("/broken", _broken)
    app.router.add_route("*", "/{path:.*}", _echo)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def host_of(sandbox: str, port: int = PORT) -> dict[str, str]:
    return {"Host": f"{sandbox}-p{port}.previews.example:8080"}


def socket_to(fleet_url: str, sandbox: str, path: str = "/ws", **options: Any) -> connect:
    url = fleet_url.replace("http://127.0.0.1", f"ws://{sandbox}-p{PORT}.localhost") + path
    port = int(fleet_url.rpartition(":")[2])
    return connect(url, host="127.0.0.1", port=port, open_timeout=60, **options)


def large() -> bytes:
    """Return what `/large` answers: no two pieces of it are alike."""
    return b"".join(number.to_bytes(4, "big") for number in range(LARGE_BYTES // 4))


async def _large(request: web.Request) -> web.Response:
    return web.Response(body=large())


async def _echo(request: web.Request) -> web.Response:
    body = await request.read()
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.raw_headers]
    return web.json_response(
        {
            "method": request.method,
            "target": request.raw_path,
            "headers": headers,
            "bytes": len(body),
            "start": body[:20].decode("latin-1"),
        },
        status=418 if request.path == "/teapot" else 200,
        headers={"Access-Control-Allow-Origin": "https://only.example"},
    )


async def _cookies(request: web.Request) -> web.Response:
    answer = web.Response(text="set")
    answer.headers.add("Set-Cookie", "a=1")
    answer.headers.add("Set-Cookie", "b=2")
    return answer


async def _events(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    for number in range(int(request.query.get("count", "3"))):
        await answer.write(f"data: {number}\n\n".encode())
        if "held" in request.query:  # until a POST
            await request.app[MAY_GO_ON].wait()
        else:
            await asyncio.sleep(0.05)
    return answer


async def _go_on(request: web.Request) -> web.Response:
    request.app[MAY_GO_ON].set()
    return web.Response()


async def _broken(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def _refusal(request: web.Request) -> web.Response:
    return web.Response(status=418)


async def _socket(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(protocols=("chat",))
    await socket.prepare(request)
    await socket.send_str(f"host={request.headers['X-Forwarded-Host']}")
    async for message in socket:
        if message.type is WSMsgType.TEXT and message.data == "bye":
            await socket.close(code=4321, message=b"bye")
        elif message.type is WSMsgType.TEXT:
            await socket.send_str(message.data.upper())
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data[::-1])
    return socket
