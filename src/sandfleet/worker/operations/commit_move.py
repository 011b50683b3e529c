"""Commit: run here what has landed. From here on only this side is repaired, never the other one woken.

What if this process dies
    before it is written that the machine is at home   the next one repeats all of it
    before the guest was told who it is                the next one serves it, and tells it on a repeat
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from sandfleet.model.errors import NotFound, StaleEpoch
from sandfleet.ports.guest import Guest
from sandfleet.ports.hypervisor import Machine
from sandfleet.ports.moves import Tell
from sandfleet.wire.move_messages import CommitMove
from sandfleet.wire.worker_messages import VmStatus
from sandfleet.worker.host import Host
from sandfleet.worker.operations.outfit import identity
from sandfleet.worker.operations.receive_move import arriving
from sandfleet.worker.operations.succeed import resume_work, serve
from sandfleet.worker.residents import Resident, VmState

log = structlog.get_logger("sandfleet.worker")


async def commit_move(host: Host, move_id: str, order: CommitMove) -> VmStatus:
    """Return the status of the running VM; may be repeated, also to the next process."""
    host.require_adopted()
    resident = host.residents.find(order.sandbox_id)
    if resident is None:
        raise NotFound(f"nothing comes to this worker by move {move_id}", code="no_such_move")
    if resident.epoch != order.epoch:
        raise StaleEpoch(
            f"sandbox {order.sandbox_id} is here under epoch {resident.epoch}, not {order.epoch}"
        )
    if resident.state is VmState.STOPPING:  # said when it is true: its source may be called back by it
        if resident.stopping is not None:
            await resident.stopping.result()
        raise NotFound(f"what came by move {move_id} was removed", code="no_such_move")
    if resident.state is not VmState.ARRIVING:
        await _confirm_identity(host, resident, order)
        return resident.status()
    if arriving(host, move_id) is not resident or resident.arrival is None or resident.machine is None:
        raise NotFound(f"sandbox {order.sandbox_id} does not come by move {move_id}", code="no_such_move")
    arrival = resident.arrival
    if arrival.taking_over is None or arrival.taking_over.done:
        arrival.taking_over = host.background.start(
            _take_over(host, resident, order, machine=resident.machine), name=f"commit {move_id}"
        )
    await arrival.taking_over.result()
    return resident.status()


async def _confirm_identity(host: Host, resident: Resident, order: CommitMove) -> None:
    """Finish what an earlier process may have left half done: the guest ran, and had no identity yet."""
    machine = resident.machine
    if resident.is_identity_certain or machine is None or resident.state is not VmState.RUNNING:
        return
    await _told(host, resident, order)(machine.guest)
    resident.is_identity_certain = True


async def _take_over(host: Host, resident: Resident, order: CommitMove, *, machine: Machine) -> None:
    began_s = host.clock.monotonic()
    steps_ms = await host.require_mover().take_over(machine, tell=_told(host, resident, order))
    # The sizes count as the hypervisor reads them back, not as the manifest remembers them.
    resident.order = replace(resident.order, memory_mib=machine.facts.order.memory_mib)
    serve(host, resident, machine)
    resume_work(host, resident)
    host.changed.set()
    log.info(
        "vm_moved_here",
        sandbox=resident.sandbox_id,
        epoch=resident.epoch,
        took_ms=round((host.clock.monotonic() - began_s) * 1000, 1),
        steps_ms=dict(steps_ms),
    )


def _told(host: Host, resident: Resident, order: CommitMove) -> Tell:
    async def tell(guest: Guest) -> None:
        # Made when it is sent: it steps the clock.
        await guest.assume_identity(identity(host, resident.sandbox_id, order.envs))

    return tell
