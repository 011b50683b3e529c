"""`python -m bench.left_floor SETTINGS FLOOR`: end the bare clones of a benchmark that was killed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path

from sandfleet.adapters.network.namespaces import NamespaceNetwork
from sandfleet.adapters.qemu.config import HypervisorConfig
from sandfleet.testing.disposable_fleets import StillThere, end_fleet
from sandfleet.worker.engine import engine
from sandfleet.worker.settings import WorkerSettings, load_settings

FLOOR = "floor"
"""Where the bare clones lie, in the benchmark's directory."""
FLOOR_UID_FIRST = 900_000
FLOOR_NETWORK = "10.250.0.0/16"
_TIMEOUT_S = 120.0


def floor_settings(data_dir: Path) -> WorkerSettings:
    """Return a worker's settings for the floor: the same template, but its own place, users and addresses."""
    path = next(data_dir.glob("settings/wk-*.toml"))
    own = {"data_dir": data_dir / FLOOR, "uid_first": FLOOR_UID_FIRST, "network_range": FLOOR_NETWORK}
    return load_settings(path).model_copy(update=own)


def end_bed(data_dir: Path) -> None:
    """End the fleet of a benchmark and the bare clones beside it; `StillThere`."""
    if (data_dir / FLOOR).is_dir():
        # A process of its own: this may be asked for inside of an event loop.
        argv = [sys.executable, "-m", "bench.left_floor", str(data_dir)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        if done.returncode != 0:
            raise StillThere(f"the bare clones below {data_dir}: {done.stderr[-2000:]}")
    end_fleet(data_dir)


async def end_floor(settings: WorkerSettings) -> None:
    """End all bare clones and give back what the host was given for them."""
    hypervisor = engine(settings)
    for machine in await hypervisor.adopt():
        await machine.destroy()
    await hypervisor.sweep()
    folders = HypervisorConfig(data_dir=settings.data_dir, templates_dir=settings.templates_dir)
    network = NamespaceNetwork(
        tag=folders.tag, address_range=IPv4Network(settings.network_range), resolvers=()
    )
    await network.withdraw()


if __name__ == "__main__":
    asyncio.run(end_floor(floor_settings(Path(sys.argv[1]))))
