"""Stop: have nothing of a sandbox left on this host, and prove it.

A kill wins over everything: it closes the gate, cancels a start under way, ends
the work inside and destroys the machine without asking the guest. The epoch is
buried, so that a start that arrives late is refused.
"""

from __future__ import annotations

from typing import Any

import structlog

from sandfleet.model.errors import StaleEpoch
from sandfleet.wire.worker_messages import StopVm, VmStopped
from sandfleet.worker.background import OwnedTask
from sandfleet.worker.host import Host
from sandfleet.worker.residents import Resident

log = structlog.get_logger("sandfleet.worker")


async def stop(host: Host, sandbox_id: str, order: StopVm) -> VmStopped:
    """Return when the host holds nothing of the sandbox; true also for what is not here."""
    host.require_adopted()
    resident = host.residents.find(sandbox_id)
    if resident is None:
        host.residents.bury(sandbox_id, epoch=order.epoch)
        return VmStopped(sandbox_id=sandbox_id, existed=False)
    if order.epoch < resident.epoch:
        raise StaleEpoch(f"sandbox {sandbox_id} is here under epoch {resident.epoch}, not {order.epoch}")
    if order.idle_since_s is not None and resident.stopping is None:
        resident.close_if_idle(order.idle_since_s)
    host.residents.bury(sandbox_id, epoch=order.epoch)
    await end(host, resident)
    return VmStopped(sandbox_id=sandbox_id, existed=True)


async def end(host: Host, resident: Resident) -> None:
    """Close the gate and destroy the machine; whoever comes second waits for the first.

    The work is the worker's own: a caller that leaves does not interrupt it. When the
    host refuses, the resident stays, closed, and the next call tries again.
    """
    resident.close()
    if resident.stopping is None or resident.stopping.done:
        resident.stopping = host.background.start(
            _destroy(host, resident), name=f"stop {resident.sandbox_id}"
        )
        host.changed.set()
    await resident.stopping.result()


async def _destroy(host: Host, resident: Resident) -> None:
    if resident.starting is not None:
        resident.starting.cancel()
        await resident.starting.settled()
    if resident.successor is not None and resident.successor.starting is not None:
        resident.successor.starting.cancel()
        await resident.successor.starting.settled()
    if resident.saving is not None:
        resident.saving.cancel()
        await resident.saving.settled()
    for work in work_of_moves(resident):
        work.cancel()
        await work.settled()
    if resident.machine is not None:
        await resident.machine.destroy()
    host.residents.bury(resident.sandbox_id, epoch=resident.epoch)
    host.residents.remove(resident)
    host.changed.set()
    host.pool.poke()
    log.info("vm_stopped", sandbox=resident.sandbox_id, epoch=resident.epoch)


def work_of_moves(resident: Resident) -> list[OwnedTask[Any]]:
    """Return what of the sandbox's moves is under way here."""
    arrival, departure = resident.arrival, resident.departure
    work: list[OwnedTask[Any] | None] = []
    work += [] if arrival is None else [arrival.making, arrival.taking_over]
    work += [] if departure is None else [departure.sending, departure.looking, departure.ending]
    return [one for one in work if one is not None and not one.done]
