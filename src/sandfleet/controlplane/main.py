"""Wiring of `sandfleet server`: settings in, one replica up, serve until told to stop."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
import uvloop
from starlette.types import Receive, Scope, Send

from sandfleet import __version__
from sandfleet.adapters.task_group import TaskGroup
from sandfleet.controlplane.api.health import exposition
from sandfleet.controlplane.app import Application
from sandfleet.controlplane.edge import Edge
from sandfleet.controlplane.http_server import Departure, http_server, listen, serve_until
from sandfleet.controlplane.logs import configure_logs
from sandfleet.controlplane.settings import ControlPlaneSettings
from sandfleet.controlplane.wiring import control_plane

log = structlog.get_logger(__name__)


def run_server(settings: ControlPlaneSettings) -> None:
    """Run a replica until SIGTERM or SIGINT; running sandboxes do not notice."""
    configure_logs(settings.log_level)
    log.info("server begins", version=__version__, settings=settings.redacted())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings))
    log.info("server ended")


async def _run(settings: ControlPlaneSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, stop=stop, on_listening=lambda edge, port: _spare_what_stays())


async def serve(
    settings: ControlPlaneSettings,
    *,
    stop: asyncio.Event,
    on_listening: Callable[[Edge, int], None] = lambda edge, port: None,
) -> None:
    """Serve until `stop`; `on_listening` is told the port."""
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(listen(settings.listen_host, settings.listen_port))
        edge = await stack.enter_async_context(control_plane(settings))
        port = listener.getsockname()[1]
        if settings.metrics_listen_port is not None:
            await stack.enter_async_context(_internal_metrics(edge, settings))
        log.info("server listens", host=settings.listen_host, port=port)
        on_listening(edge, port)
        await serve_until(
            stop,
            http_server(Application(edge), drain_max_s=settings.drain_max_s),
            listener,
            Departure(
                drain=edge.drain,
                on_notice=edge.lifecycle.retire,
                notice_s=settings.drain_notice_s,
                max_s=settings.drain_max_s,
            ),
        )
        edge.drain.hurry()


def _spare_what_stays() -> None:
    """Take all that the start has made out of the collector's sight: it never goes, and to look at it
    again and again would stop every request for a tenth of a second each time."""
    gc.collect()
    gc.freeze()


@asynccontextmanager
async def _internal_metrics(edge: Edge, settings: ControlPlaneSettings) -> AsyncIterator[None]:
    """Serve `/metrics` without a credential on a listener of its own."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        is_known = scope["type"] == "http" and scope["path"] == "/metrics"
        headers = [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200 if is_known else 404, "headers": headers})
        await send({"type": "http.response.body", "body": await exposition(edge) if is_known else b""})

    with listen(settings.listen_host, settings.metrics_listen_port or 0) as listener:
        server = http_server(app, drain_max_s=1)
        async with TaskGroup() as group:
            group.create_task(server.serve(sockets=[listener]), name="metrics")
            try:
                yield
            finally:
                server.should_exit = True
