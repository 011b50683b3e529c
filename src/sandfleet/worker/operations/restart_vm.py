"""Reboot and power-cycle: boot a sandbox's own disks anew; it stays who it is.

The gate is shut first, so what comes meanwhile is told to wait. A VM that has died may be
started anew as well. What fails leaves a dead VM with its disks, which another power-cycle may bring back.
"""

from __future__ import annotations

import structlog

from sandfleet.model.errors import Gone, NotFound, SandfleetError, StaleEpoch
from sandfleet.ports.hypervisor import Machine
from sandfleet.wire.worker_messages import RestartVm, VmStatus
from sandfleet.worker.executions import Executions
from sandfleet.worker.host import Host
from sandfleet.worker.operations.outfit import identity, shape
from sandfleet.worker.operations.succeed import serve
from sandfleet.worker.residents import Resident, VmState

log = structlog.get_logger("sandfleet.worker")


async def restart_vm(host: Host, sandbox_id: str, order: RestartVm, *, is_clean: bool) -> VmStatus:
    """Return when the new guest serves the sandbox; the same restart id is one restart."""
    host.require_adopted()
    resident = host.residents.find(sandbox_id)
    if resident is None or resident.machine is None:
        raise NotFound(f"sandbox {sandbox_id} is not on this worker")
    if resident.epoch != order.epoch:
        raise StaleEpoch(f"sandbox {sandbox_id} is here under epoch {resident.epoch}, not {order.epoch}")
    if resident.restarted != order.restart_id:
        resident.begin_restart()
        resident.restarted = order.restart_id
        resident.starting = host.background.start(
            _run(host, resident, resident.machine, order=order, is_clean=is_clean),
            name=f"restart {sandbox_id}",
        )
        host.changed.set()
    if resident.starting is not None:
        await resident.starting.result()
    if resident.state is not VmState.RUNNING:
        raise Gone(f"sandbox {sandbox_id} is {resident.state.value}: {resident.reason or 'no reason'}")
    return resident.status()


async def _run(host: Host, resident: Resident, machine: Machine, *, order: RestartVm, is_clean: bool) -> None:
    began_s = host.clock.monotonic()
    try:
        await host.hypervisor.restart(machine, is_clean=is_clean)
        await machine.guest.assume_identity(identity(host, resident.sandbox_id, order.envs, is_known=True))
        await shape(host, machine)
        await machine.note_restart(order.restart_id)
    except SandfleetError as error:
        resident.die(f"it did not start again: {error.message}")
        raise
    finally:
        resident.executions = Executions(resident.executions.budget)
        host.changed.set()
    serve(host, resident, machine)
    took_s = round(host.clock.monotonic() - began_s, 2)
    log.info("vm_restarted", sandbox=resident.sandbox_id, is_clean=is_clean, took_s=took_s)
