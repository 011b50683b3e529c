"""Receive: make the place for a sandbox that another worker sends, and say when it has landed.

Its memory counts as promised from the first moment, before a byte flows. It is served by nobody
until `commit_move`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import structlog

from sandfleet.model.errors import BadRequest, Conflict, NoCapacity, NotFound
from sandfleet.ports.hypervisor import MachineOrder
from sandfleet.ports.moves import Arrival as ExpectedMachine
from sandfleet.wire.move_manifest import Landing, MoveManifest
from sandfleet.wire.move_messages import (
    ARRIVING,
    AT_HOME,
    LANDED,
    AbandonMove,
    AwaitLanding,
    MoveAbandoned,
    MoveState,
    ReceiveMove,
)
from sandfleet.worker.host import Host
from sandfleet.worker.moves import Arrival
from sandfleet.worker.operations.stop import end, work_of_moves
from sandfleet.worker.operations.watch import watch
from sandfleet.worker.residents import Resident, VmState

log = structlog.get_logger("sandfleet.worker")


async def receive_move(host: Host, move_id: str, order: ReceiveMove) -> Landing:
    """Return where the sandbox is expected; the same move twice is one place."""
    host.require_adopted()
    host.moves.refuse_given_up(move_id)
    if order.source_worker == host.worker_id:
        raise BadRequest("a sandbox does not move to the worker that it is on", code="same_worker")
    resident = arriving(host, move_id)
    if resident is None:
        resident = await _begin(host, move_id, order)
    arrival = resident.arrival
    if arrival is not None and arrival.making is not None:
        return await arrival.making.result()
    if resident.machine is None or resident.state is not VmState.ARRIVING:
        raise Conflict(f"move {move_id} has ended here", code="busy")
    return await host.require_mover().landing(resident.machine)


async def _begin(host: Host, move_id: str, order: ReceiveMove) -> Resident:
    known = host.residents.find(order.sandbox_id)
    if known is not None:
        if known.epoch > order.manifest.epoch or known.state in (VmState.ARRIVING, VmState.RUNNING):
            raise Conflict(f"sandbox {order.sandbox_id} is here under epoch {known.epoch}", code="busy")
        await end(host, known)  # what an earlier move has left: it went on elsewhere
    _refuse_without_room(host, order.manifest)
    if host.residents.find(order.sandbox_id) is not None:
        raise Conflict(f"sandbox {order.sandbox_id} is coming here by another move", code="busy")
    resident = Resident(
        order.sandbox_id,
        epoch=order.epoch,
        order=machine_order(order.manifest),
        clock=host.clock,
        outputs=host.outputs,
    )
    resident.expect()
    resident.arrival = Arrival(move_id)
    host.residents.add(resident)
    resident.arrival.making = host.background.start(
        _make(host, resident, move_id=move_id, order=order), name=f"receive {order.sandbox_id}"
    )
    host.changed.set()
    return resident


def _refuse_without_room(host: Host, manifest: MoveManifest) -> None:
    if host.is_stopping:
        raise NoCapacity("the worker is stopping")
    coming = [one for one in host.residents if one.state is VmState.ARRIVING]
    if len(coming) >= host.limits.moves_max:
        raise NoCapacity(f"{len(coming)} sandboxes are coming to this worker already")
    promised = host.residents.committed_mib
    if promised + manifest.memory_mib > host.limits.memory_budget_mib:
        raise NoCapacity(
            f"short of {manifest.memory_mib} MiB: {promised} of "
            f"{host.limits.memory_budget_mib} MiB are promised"
        )


async def _make(host: Host, resident: Resident, *, move_id: str, order: ReceiveMove) -> Landing:
    expected = ExpectedMachine(
        move_id,
        order.manifest,
        owner=resident.sandbox_id,
        epoch=resident.epoch,
        host=host.landing_address,
        may_post_copy=order.may_post_copy,
    )

    async def fetch(wanted: Mapping[str, Path]) -> None:
        await host.require_store().fetch_backings(wanted)

    try:
        machine, landing = await host.require_mover().receive(expected, fetch)
    except BaseException:
        host.residents.remove(resident)
        host.changed.set()
        raise
    if resident.state is not VmState.ARRIVING:
        await machine.destroy()
        raise Conflict(f"move {move_id} was given up while its place was made", code="busy")
    resident.take(machine)
    host.background.start(watch(host, resident, machine), name=f"watch {resident.sandbox_id}")
    log.info("vm_expected", sandbox=resident.sandbox_id, epoch=resident.epoch, move=move_id)
    return landing


async def landed(host: Host, move_id: str, _order: AwaitLanding) -> MoveState:
    """Return when the sandbox could run here, or raise what keeps it from that."""
    host.require_adopted()
    resident = require_arriving(host, move_id)
    if resident.state is VmState.ARRIVING and resident.machine is not None:
        await host.require_mover().landed(resident.machine)
        return MoveState(move_id=move_id, sandbox_id=resident.sandbox_id, step=LANDED)
    return arrival_state(host, move_id)


def arrival_state(host: Host, move_id: str) -> MoveState:
    """Return how a move to here stands."""
    host.require_adopted()
    resident = require_arriving(host, move_id)
    step = ARRIVING if resident.state is VmState.ARRIVING else AT_HOME
    if resident.state in (VmState.DEAD, VmState.STOPPING):
        raise NotFound(f"what came by move {move_id} has ended: {resident.reason}", code="no_such_move")
    return MoveState(move_id=move_id, sandbox_id=resident.sandbox_id, step=step)


async def abandon_move(host: Host, move_id: str, _order: AbandonMove) -> MoveAbandoned:
    """Remove the place of a move that does not count; it can never be received again."""
    host.require_adopted()
    resident = arriving(host, move_id)
    if resident is not None and resident.state in (VmState.RUNNING, VmState.SAVING, VmState.MOVING):
        raise Conflict(f"sandbox {resident.sandbox_id} is at home here", code="committed")
    host.moves.give_up(move_id)
    if resident is None:
        return MoveAbandoned(move_id=move_id, existed=False)
    resident.close()
    if resident.stopping is None or resident.stopping.done:
        resident.stopping = host.background.start(_remove(host, resident), name=f"give up move {move_id}")
    await resident.stopping.result()
    return MoveAbandoned(move_id=move_id, existed=True)


async def _remove(host: Host, resident: Resident) -> None:
    """Remove what was made. Its epoch is not over: the sandbox never was here under it."""
    for work in work_of_moves(resident):
        work.cancel()
        await work.settled()
    if resident.machine is not None:
        await resident.machine.destroy()
    host.residents.remove(resident)
    host.changed.set()
    host.pool.poke()


def arriving(host: Host, move_id: str) -> Resident | None:
    """Return the resident that comes, or came, by this move."""
    return next(
        (one for one in host.residents if one.arrival is not None and one.arrival.move_id == move_id), None
    )


def require_arriving(host: Host, move_id: str) -> Resident:
    """Return the resident of this move; NotFound is positive."""
    found = arriving(host, move_id)
    if found is None:
        raise NotFound(f"nothing comes to this worker by move {move_id}", code="no_such_move")
    return found


def machine_order(manifest: MoveManifest) -> MachineOrder:
    """Return the shape of what comes."""
    return MachineOrder(
        template=manifest.template,
        memory_mib=manifest.memory_mib,
        cpu_count=manifest.cpu_count,
        disk_mib=manifest.disk_mib,
        network_enabled=manifest.network_enabled,
    )
