"""The supervisor's process: `python -m sandfleet.local.supervise --data-dir DIR`."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

import structlog

from sandfleet.adapters.clock import SystemClock
from sandfleet.local.configuration import load_configuration, load_secrets, save_configuration
from sandfleet.local.launched_workers import follower_of
from sandfleet.local.layout import Layout
from sandfleet.local.lock import AlreadySupervised, supervisor_lock
from sandfleet.local.ports import HeldPorts
from sandfleet.local.service_process import ServiceFailed
from sandfleet.local.services import services_of, with_ports
from sandfleet.local.state import FleetState, read_state
from sandfleet.local.supervisor import Supervisor

LEAVE_SIGNAL = signal.SIGUSR1
"""Ends the supervisor and leaves its services running, for the next one."""
EXIT_FAILED = 1
EXIT_ALREADY_SUPERVISED = 3
_log = structlog.get_logger(__name__)


async def supervise(layout: Layout) -> None:
    """Supervise the fleet of a data directory until SIGTERM or SIGINT. The lock is held."""
    before = read_state(layout)
    # For as long as this process lives, so that what crashes finds its port again.
    with HeldPorts(running=before.ports_in_use if before else ()) as held:
        await _supervise(layout, before, held)


async def _supervise(layout: Layout, before: FleetState | None, held: HeldPorts) -> None:
    configuration = with_ports(load_configuration(layout), held)
    save_configuration(layout, configuration)
    secrets = load_secrets(layout)
    services = await asyncio.to_thread(services_of, layout, configuration, secrets)
    follower = follower_of(layout, configuration, secrets, held=held)
    host = "127.0.0.1" if configuration.api_host in ("0.0.0.0", "::") else configuration.api_host
    supervisor = Supervisor(
        layout,
        (*services, *await asyncio.to_thread(follower.services)),
        url=f"http://{host}:{configuration.api_port}",
        choices=configuration.digest,
        clock=SystemClock(),
        before=before,
    )
    supervisor.machines = follower
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.request_stop)
    loop.add_signal_handler(signal.SIGHUP, supervisor.request_retry)
    loop.add_signal_handler(LEAVE_SIGNAL, supervisor.request_leave)
    await supervisor.run()


def run(layout: Layout) -> int:
    """Take the lock and supervise; return the exit code."""
    layout.make()
    try:
        with supervisor_lock(layout):
            asyncio.run(supervise(layout))
    except AlreadySupervised as error:
        _log.info(str(error))
        return EXIT_ALREADY_SUPERVISED
    except ServiceFailed as error:
        _log.error("the fleet cannot be started", reason=str(error))
        return EXIT_FAILED
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    )
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    return run(Layout(parser.parse_args(argv).data_dir.resolve()))


if __name__ == "__main__":
    raise SystemExit(main())
