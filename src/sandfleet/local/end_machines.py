"""Ending the VMs of a fleet whose processes have ended: straight on the host, asking nobody.

So end the VMs that stood ready, which belong to no sandbox, and those of sandboxes that the fleet
could not end in good order.
"""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path

from sandfleet.adapters.guest.virtio_guest import VirtioGuest
from sandfleet.adapters.network.namespaces import NamespaceNetwork
from sandfleet.adapters.qemu.config import HypervisorConfig
from sandfleet.adapters.qemu.hypervisor import QemuHypervisor
from sandfleet.local.layout import Layout
from sandfleet.local.machines import count_machines
from sandfleet.local.service_process import ServiceFailed
from sandfleet.model.errors import SandfleetError

_END_WITHIN_S = 120.0


def end_machines(layout: Layout, report: Callable[[str], None]) -> int:
    """End every VM of the fleet and remove it from the host; return how many there were."""
    total = count_machines(layout).total
    if not total:
        return 0
    report(f"ending {total} VMs on this host")
    for path in sorted(layout.settings_dir.glob("wk-*.toml")):
        try:
            asyncio.run(end_all_of(path))
        except (SandfleetError, OSError, TimeoutError) as error:
            raise ServiceFailed(f"not every VM of {path.stem} could be ended: {error!r}") from error
    return total


async def end_all_of(settings_file: Path) -> None:
    """End every VM of the worker with these settings, whose process has ended."""
    settings = tomllib.loads(settings_file.read_text())
    config = HypervisorConfig(data_dir=Path(settings["data_dir"]), templates_dir=Path("/"))
    network = NamespaceNetwork(
        tag=config.tag, address_range=IPv4Network(settings["network_range"]), resolvers=()
    )
    engine = QemuHypervisor(
        config, guests=_nobody, late_guests=VirtioGuest, network=network, images=lambda: ()
    )
    async with asyncio.timeout(_END_WITHIN_S):
        await engine.end_all()


async def _nobody(socket: Path) -> VirtioGuest:
    """Open no session: nothing is asked of a guest that ends."""
    return VirtioGuest(socket)
