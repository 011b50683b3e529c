"""`python -m bench.hello PORT`: the web framework's hello world, served as a replica is served."""

from __future__ import annotations

import asyncio
import sys

import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sandfleet.controlplane.http_server import http_server, listen


async def _hello(_: Request) -> JSONResponse:
    return JSONResponse({"hello": "world"})


async def _serve(port: int) -> None:
    app = Starlette(routes=[Route("/hello", _hello)])
    with listen("127.0.0.1", port) as listener:
        await http_server(app, drain_max_s=1).serve(sockets=[listener])


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))
