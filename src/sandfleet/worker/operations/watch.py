"""Watch one VM until it ends by itself, and say so."""

from __future__ import annotations

import structlog

from sandfleet.ports.hypervisor import Machine
from sandfleet.worker.host import Host
from sandfleet.worker.residents import Resident, VmState

log = structlog.get_logger("sandfleet.worker")


async def watch(host: Host, resident: Resident, machine: Machine) -> None:
    """Mark the resident dead when its QEMU ends; what is left stays until the control plane's stop."""
    reason = await machine.wait_dead()
    if resident.state in (VmState.RUNNING, VmState.MOVING, VmState.ARRIVING):
        resident.die(reason)
        log.warning("vm_died", sandbox=resident.sandbox_id, epoch=resident.epoch, reason=reason)
        host.changed.set()
