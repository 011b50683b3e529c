"""The listening socket and the HTTP server of one replica, and how it stops."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.adapters.web_sockets import server_options
from sandfleet.controlplane.http.drain import Drain
from sandfleet.wire.session_frames import MESSAGE_BYTES_MAX

BACKLOG = 4096
KEEP_ALIVE_S = 75
HURRY_BEFORE_END_S = 3.0
"""How long before the end of the drain whatever only waits is asked to answer."""


class HttpServer(uvicorn.Server):
    """A server that leaves signals to `main`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing: one place in the process decides what a signal means."""
        yield


def http_server(app: ASGIApp, *, drain_max_s: float) -> HttpServer:
    """Return a server for `app`; what is in flight at the stop gets `drain_max_s`."""
    return HttpServer(
        uvicorn.Config(
            app,
            loop="none",
            http="httptools",
            **server_options(message_bytes_max=MESSAGE_BYTES_MAX),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(drain_max_s)),
        )
    )


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket with a long backlog; port 0 takes any free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    listener.setblocking(False)
    return listener


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """How this replica goes. `on_notice` lets others have what they can do better from now on."""

    drain: Drain
    on_notice: Callable[[], Coroutine[Any, Any, None]]
    notice_s: float
    max_s: float


async def serve_until(
    stop: asyncio.Event, server: HttpServer, listener: socket.socket, departure: Departure
) -> None:
    """Serve until `stop`; then say so, stop listening, and let the requests in flight end."""
    drain = departure.drain
    async with TaskGroup() as group:
        serving = group.create_task(_serve(server, listener), name="http")
        stopping = group.create_task(stop.wait(), name="stop")
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        drain.give_notice()
        noticed = group.create_task(departure.on_notice(), name="notice")
        await asyncio.sleep(departure.notice_s)
        server.should_exit = True
        drain.leave()
        hurry_in_s = max(0.0, departure.max_s - HURRY_BEFORE_END_S)
        hurrying = group.create_task(_hurry_later(drain, hurry_in_s))
        await asyncio.wait({serving, noticed})
        hurrying.cancel()


async def _serve(server: HttpServer, listener: socket.socket) -> None:
    try:
        await server.serve(sockets=[listener])
    finally:
        for open_server in server.servers:  # left open only when it was cancelled
            open_server.close()


async def _hurry_later(drain: Drain, seconds: float) -> None:
    await asyncio.sleep(seconds)
    drain.hurry()
