"""Save: hibernate a VM into a local snapshot. Until that exists every failure reopens the gate.

What if this process dies
    before the snapshot has its name   the next one resumes the guest at adoption: as if nothing had been
    after it has                       the next one removes the machine: the snapshot is the sandbox
Either way the repeated order gets the right answer: a save, or the snapshot.

A refusal is final: whoever heard it has written the snapshot off, so a copy of the order that
arrives late must not end the VM after all. It cannot outlive this process, nor can the refusal.
"""

from __future__ import annotations

from sandfleet.model.errors import Conflict, NoCapacity, NotFound, SandfleetError, StaleEpoch, Unavailable
from sandfleet.ports.hypervisor import Machine
from sandfleet.ports.snapshots import SavedSnapshot
from sandfleet.wire.worker_messages import SavedVm, SaveVm
from sandfleet.worker.background import OwnedTask
from sandfleet.worker.host import Host
from sandfleet.worker.operations.capture_vm import note, refuse_full_disk, saved_vm
from sandfleet.worker.operations.serve_again import serve_again
from sandfleet.worker.operations.stop import end
from sandfleet.worker.residents import Resident, VmState


async def save_vm(host: Host, sandbox_id: str, order: SaveVm) -> SavedVm:
    """Return the snapshot when it is complete and nothing of the VM is left; the same id is one save."""
    host.require_adopted()
    resident = host.residents.find(sandbox_id)
    if resident is not None and resident.saving is not None and resident.saving_to == order.snapshot_id:
        return saved_vm(await resident.saving.result(), owner=sandbox_id)
    done = host.require_snapshots().find(order.snapshot_id)
    if done is not None:
        answer = saved_vm(done, owner=sandbox_id)
        if resident is not None and resident.epoch == order.epoch:
            await end(host, resident)
        return answer
    if resident is None:
        raise NotFound(f"sandbox {sandbox_id} is not on this worker")
    if resident.epoch != order.epoch:
        raise StaleEpoch(f"sandbox {sandbox_id} is here under epoch {resident.epoch}, not {order.epoch}")
    if (refusal := resident.refused_saves.get(order.snapshot_id)) is not None:
        raise refusal
    try:
        return saved_vm(await _begin(host, resident, order).result(), owner=sandbox_id)
    except SandfleetError as error:
        if isinstance(error, NoCapacity) or not isinstance(error, Unavailable):  # the rest is asked again
            resident.refuse_save(order.snapshot_id, error)
        raise


def _begin(host: Host, resident: Resident, order: SaveVm) -> OwnedTask[SavedSnapshot]:
    if resident.successor is not None or resident.machine is None:
        raise Conflict(f"sandbox {resident.sandbox_id} is being changed", code="busy")
    resident.close_to_save(order.idle_since_s)
    resident.saving_to = order.snapshot_id
    resident.saving = host.background.start(
        _save(host, resident, machine=resident.machine, snapshot_id=order.snapshot_id),
        name=f"save {resident.sandbox_id}",
    )
    host.changed.set()
    return resident.saving


async def _save(host: Host, resident: Resident, *, machine: Machine, snapshot_id: str) -> SavedSnapshot:
    snapshots = host.require_snapshots()
    try:
        await refuse_full_disk(machine.guest)
        saved = await snapshots.save(machine, snapshot_id)
    except BaseException:
        if snapshots.find(snapshot_id) is None:
            resident.saving = None
            resident.saving_to = None
            await serve_again(host, resident, machine, after=VmState.SAVING)
        raise
    await machine.destroy()
    host.residents.bury(resident.sandbox_id, epoch=resident.epoch)
    host.residents.remove(resident)
    host.changed.set()
    host.pool.poke()
    note("vm_saved", resident, saved)
    return saved
