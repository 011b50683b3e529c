"""A supervisor that has nothing but machines, each a small program: `python launched_programs.py DIR`."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from pathlib import Path

from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.machines.local_orders import LocalOrder
from sandfleet.local.launched_machines import LaunchedMachines, PlacedMachine
from sandfleet.local.layout import Layout
from sandfleet.local.lock import supervisor_lock
from sandfleet.local.machine_follower import MachineFollower
from sandfleet.local.ports import HeldPorts
from sandfleet.local.service_process import ServiceCommand
from sandfleet.local.services import Service
from sandfleet.local.state import ServiceKind, read_state
from sandfleet.local.supervisor import Supervisor

PROGRAM = "import sys, time, pathlib\npathlib.Path(sys.argv[2]).write_text('up')\ntime.sleep(600)\n"


def follower(layout: Layout) -> MachineFollower:
    """Return machines of which each has a directory with one file."""

    def service_of(placed: PlacedMachine) -> Service:
        name = placed.order.worker_id
        home = layout.worker_data(name)
        home.mkdir(parents=True, exist_ok=True)
        own = home / "settings"
        own.write_text(f"{placed.slot} {placed.port} {placed.order.memory_mib}")
        return Service(
            name=name,
            kind=ServiceKind.WORKER,
            port=placed.port,
            command=ServiceCommand(
                name=name,
                argv=[sys.executable, "-c", PROGRAM, str(own), str(home / "up")],
                log_path=layout.log(name),
                environment={},
            ),
            own_path=own,
            is_ready=lambda _pid: (home / "up").exists(),
        )

    async def clear(order: LocalOrder) -> None:
        fails = layout.data_dir / f"{order.worker_id}.cannot-be-cleared"
        if fails.exists():
            fails.unlink()
            raise OSError("it is held by somebody")
        shutil.rmtree(layout.worker_data(order.worker_id), ignore_errors=True)

    machines = LaunchedMachines(layout.machines, slots=(5, 6, 7), ports=HeldPorts())
    return MachineFollower(machines, service_of, clear)


async def _run(layout: Layout) -> None:
    launched = follower(layout)
    supervisor = Supervisor(
        layout, launched.services(), url="http://nowhere", clock=SystemClock(), before=read_state(layout)
    )
    supervisor.machines = launched
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, supervisor.request_stop)
    await supervisor.run()


if __name__ == "__main__":
    here = Layout(Path(sys.argv[1]))
    here.make()
    with supervisor_lock(here):
        asyncio.run(_run(here))
