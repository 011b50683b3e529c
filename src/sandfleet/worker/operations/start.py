"""Start: have the VM of a sandbox running here under an epoch.

Order, so that a worker that dies after any step leaves a legal state:
1. the resident is registered: its memory counts, the same order again joins it;
2. a machine, from the warm pool or cloned: without an owner, adoption reuses it;
3. `assign`, durably: from here adoption reports it under its epoch;
4. network policy, identity, limits, sizes. The control plane has no answer yet, so
   it repeats the order; a restarted worker cannot know how far step 4 came and
   does it again on the first repeat (`is_identity_certain`).
What fails, or is cancelled by a kill, undoes itself: nothing is left.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

import structlog

from sandfleet.model.errors import (
    Conflict,
    GuestUnresponsive,
    HypervisorFailed,
    NoCapacity,
    NotReady,
    StaleEpoch,
)
from sandfleet.ports.hypervisor import Machine
from sandfleet.wire.worker_messages import StartVm, VmStatus
from sandfleet.worker import metrics
from sandfleet.worker.host import Host
from sandfleet.worker.operations.load_vm import load_vm
from sandfleet.worker.operations.outfit import fit, identity, machine_order, shape
from sandfleet.worker.operations.stop import end
from sandfleet.worker.operations.succeed import begin_beside, resume_work, serve
from sandfleet.worker.residents import Resident, VmState

log = structlog.get_logger("sandfleet.worker")
_ADMIT_ATTEMPTS = 3


async def start(host: Host, sandbox_id: str, order: StartVm) -> VmStatus:
    """Return the running VM's status; the same epoch twice is one start."""
    host.require_adopted()
    resident = await _admit(host, sandbox_id, order)
    starting = resident.starting
    if starting is not None:
        await starting.settled()
        if resident.state is VmState.STOPPING:
            raise StaleEpoch(f"sandbox {sandbox_id} was stopped while it started")
        await starting.result()
    if resident.state is VmState.DEAD:
        raise HypervisorFailed(f"the VM of {sandbox_id} has died: {resident.reason}")
    return resident.status()


async def _admit(host: Host, sandbox_id: str, order: StartVm) -> Resident:
    """Return the resident of this order, new or known, with its start under way or done."""
    for _ in range(_ADMIT_ATTEMPTS):
        host.residents.refuse_buried(sandbox_id, epoch=order.epoch)
        known = host.residents.find(sandbox_id)
        if known is None:
            return _begin(host, sandbox_id, order)
        if known.epoch > order.epoch or (known.epoch == order.epoch and known.state is VmState.STOPPING):
            raise StaleEpoch(f"sandbox {sandbox_id} is here under epoch {known.epoch}")
        if known.epoch == order.epoch:
            _refuse_what_only_comes(known)
            _confirm_identity(host, known, order)
            return known
        if order.snapshot is not None and known.state is VmState.RUNNING:
            known.refuse_while_leaving()
            return begin_beside(host, known, order)
        await end(host, known)  # an older owner's VM: nobody may reach it any more
    raise Conflict(f"sandbox {sandbox_id} changes owner too often", code="busy")


def _refuse_what_only_comes(known: Resident) -> None:
    """Raise NotReady while a move to here that failed, under what is the next epoch again, is not cleared."""
    if known.arrival is not None and known.state in (VmState.ARRIVING, VmState.DEAD):
        raise NotReady(f"a move of sandbox {known.sandbox_id} to here is still being given up")


def _begin(host: Host, sandbox_id: str, order: StartVm) -> Resident:
    """Register a new resident and start it in the worker's own context."""
    if order.snapshot is None:
        host.require_template(order.template)
    if host.is_stopping:
        raise NoCapacity("the worker is stopping")
    host.require_memory(order.memory_mib)
    shape = machine_order(order)
    resident = Resident(sandbox_id, epoch=order.epoch, order=shape, clock=host.clock, outputs=host.outputs)
    host.residents.add(resident)
    resident.starting = host.background.start(_run(host, resident, order), name=f"start {sandbox_id}")
    host.changed.set()
    return resident


async def _run(host: Host, resident: Resident, order: StartVm) -> None:
    began_s = host.clock.monotonic()
    source = "failed"
    try:
        await host.faults.at("start.admitted")
        if order.snapshot is None:
            machine, source = await _warm_or_cold(host, resident, order)
        else:
            machine, source = await load_vm(host, resident, order), "snapshot"
        serve(host, resident, machine)
        if order.snapshot is None:
            resident.counted_uses = resident.uses  # nothing runs in a new guest
        else:
            resume_work(host, resident)
        await host.faults.at("start.served")
    except BaseException:
        if resident.state is VmState.STARTING:
            host.residents.remove(resident)
        raise
    finally:
        host.changed.set()
        host.pool.poke()
        took_s = host.clock.monotonic() - began_s
        metrics.START_SECONDS.labels(source=source).observe(took_s)
        log.info(
            "vm_start", sandbox=resident.sandbox_id, epoch=order.epoch, source=source, took_s=round(took_s, 4)
        )


async def _warm_or_cold(host: Host, resident: Resident, order: StartVm) -> tuple[Machine, str]:
    """Return a machine that is the sandbox's own; a warm one that fails is replaced by a clone."""
    warm = await host.pool.claim(resident.order)
    if warm is not None:
        try:
            return await _take(host, resident, order, machine=warm, is_shaped=True), "warm"
        except (GuestUnresponsive, HypervisorFailed) as error:
            log.warning("warm_machine_failed", sandbox=resident.sandbox_id, reason=error.message)
    async with host.clone_slots:
        machine = await host.hypervisor.clone(resident.order)
    return await _take(host, resident, order, machine=machine, is_shaped=False), "cold"


async def _take(
    host: Host, resident: Resident, order: StartVm, *, machine: Machine, is_shaped: bool
) -> Machine:
    """Make `machine` the sandbox's own, or destroy it."""
    async with AsyncExitStack() as undo:
        undo.push_async_callback(machine.destroy)
        await machine.assign(resident.sandbox_id, epoch=order.epoch)
        await host.faults.at("start.assigned")
        if not order.network_enabled:
            await machine.set_network(enabled=False)
        await machine.guest.assume_identity(identity(host, resident.sandbox_id, order.envs))
        await host.faults.at("start.identified")
        if not is_shaped:
            await shape(host, machine)
        undo.pop_all()
    return machine


def _confirm_identity(host: Host, resident: Resident, order: StartVm) -> None:
    """Finish, once, the start that a worker process before this one may have left half done."""
    if resident.is_identity_certain or resident.starting is not None or resident.machine is None:
        return
    if resident.state is VmState.RUNNING:
        resident.starting = host.background.start(
            _finish(host, resident, order, machine=resident.machine), name=f"finish {resident.sandbox_id}"
        )


async def _finish(host: Host, resident: Resident, order: StartVm, *, machine: Machine) -> None:
    try:
        async with resident.activity():
            if not order.network_enabled:
                await machine.set_network(enabled=False)
            if order.snapshot is not None:
                await fit(machine, order)
            is_fork = order.snapshot is not None and order.snapshot.is_fork
            await machine.guest.assume_identity(
                identity(host, resident.sandbox_id, order.envs, renew=is_fork)
            )
            await shape(host, machine)
        resident.is_identity_certain = True
    finally:
        resident.starting = None
