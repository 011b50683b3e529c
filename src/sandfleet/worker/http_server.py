"""The worker's listening socket and HTTP server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from sandfleet.adapters.web_sockets import server_options
from sandfleet.wire.session_frames import FRAME_BYTES_MAX, MESSAGE_BYTES_MAX

_BACKLOG = 2048


class HttpServer(uvicorn.Server):
    """A server that leaves signals to `main`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing: one place in the process decides what a signal means."""
        yield


def http_server(app: ASGIApp, *, stop_grace_s: float) -> HttpServer:
    """Return a server for `app`; what is in flight at the stop gets `stop_grace_s`."""
    return HttpServer(
        uvicorn.Config(
            app,
            http="httptools",
            # A client's largest message comes with its place.
            **server_options(message_bytes_max=MESSAGE_BYTES_MAX + FRAME_BYTES_MAX),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=round(stop_grace_s),
        )
    )


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes any free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    listener.setblocking(False)
    return listener
