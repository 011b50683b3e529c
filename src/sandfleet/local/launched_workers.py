"""Machines that the fleet has launched here: workers like the others, but ended whole."""

from __future__ import annotations

import asyncio
import shutil

from sandfleet.adapters.machines.local_orders import LocalOrder
from sandfleet.local.configuration import FleetConfiguration, FleetSecrets
from sandfleet.local.end_machines import end_all_of
from sandfleet.local.launched_machines import LaunchedMachines, PlacedMachine
from sandfleet.local.layout import Layout
from sandfleet.local.machine_follower import MachineFollower
from sandfleet.local.places import WORKERS_MAX
from sandfleet.local.ports import HeldPorts
from sandfleet.local.services import Service, machine_service
from sandfleet.local.stop_sandboxes import rules_withdrawn


def follower_of(
    layout: Layout, configuration: FleetConfiguration, secrets: FleetSecrets, *, held: HeldPorts
) -> MachineFollower:
    """Return what the supervisor of a data directory follows."""
    own = {worker.slot for worker in configuration.workers}

    def service_of(placed: PlacedMachine) -> Service:
        return machine_service(layout, configuration, secrets, machine=placed)

    async def clear(order: LocalOrder) -> None:
        await clear_machine(layout, order.worker_id)

    return MachineFollower(
        LaunchedMachines(layout.machines, slots=set(range(WORKERS_MAX)) - own, ports=held),
        service_of,
        clear,
    )


async def clear_machine(layout: Layout, worker_id: str) -> None:
    """End the VMs of a worker whose process has ended, and delete what it kept; twice is as good as once."""
    settings = layout.settings(worker_id)
    if settings.exists():
        await end_all_of(settings)
        await rules_withdrawn(settings)
    await asyncio.to_thread(shutil.rmtree, layout.worker_data(worker_id), ignore_errors=True)
    # Last: without it nobody would know any more what is to be ended.
    settings.unlink(missing_ok=True)
