"""What every `ports.move_store.MoveStore` keeps: two places while a sandbox moves, and one owner."""

from __future__ import annotations

from dataclasses import replace

from sandfleet.controlplane.dependencies import Stores
from sandfleet.lifecycle.sandbox import SandboxEvent, advance
from sandfleet.lifecycle.sandbox import place as owned_by
from sandfleet.model.errors import Conflict, StaleLease, StaleVersion
from sandfleet.model.ids import WorkerId
from sandfleet.model.operation import Lease, Operation, OperationKind, OperationState
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.planning.placement import FleetView, NoPlacement
from sandfleet.ports.move_store import MoveBeginning, MoveDecision
from sandfleet.ports.stores import Placed
from sandfleet.testing.builders import NOON, a_transition, a_worker, an_operation, an_organisation
from sandfleet.testing.conformance.checking import Check, refusing
from sandfleet.testing.conformance.placement_store import asked_for, place

HOME, AWAY = WorkerId("wk-one"), WorkerId("wk-two")


async def _running(stores: Stores) -> Sandbox:
    await stores.organisations.create(an_organisation())
    await stores.workers.register(a_worker(HOME))
    placed = await place(stores, *await asked_for(stores, "sb-one"))
    assert isinstance(placed, Placed)
    running = advance(placed.sandbox, SandboxEvent.BOOTED, at=NOON)
    done = replace(placed.operation, state=OperationState.SUCCEEDED, finished_at=NOON)
    await stores.operations.finish(done, sandbox=running, transition=a_transition(sandbox_id=running.id))
    await stores.workers.register(a_worker(AWAY))
    return running


def _beginning(sandbox: Sandbox, name: str = "op-move") -> tuple[Sandbox, MoveDecision, Operation]:
    after = advance(sandbox, SandboxEvent.MIGRATE_REQUESTED, at=NOON)
    operation = an_operation(name, kind=OperationKind.MIGRATE, sandbox=sandbox.id, step="receive")
    log = a_transition(sandbox_id=sandbox.id)
    return after, lambda _view, _reserved: MoveBeginning(AWAY, operation, log), operation


async def _promised(stores: Stores) -> dict[str, int]:
    return {worker.id: worker.committed.memory_mib for worker in await stores.workers.list()}


async def _begun(stores: Stores) -> tuple[Sandbox, Operation]:
    sandbox = await _running(stores)
    after, decide, operation = _beginning(sandbox)
    assert isinstance(await stores.moves.begin(after, decide), MoveBeginning)
    return after, operation


async def a_move_has_two_places_and_counts_once_for_its_organisation(stores: Stores) -> None:
    """Both workers have promised it; the row is the owner's alone."""
    sandbox, operation = await _begun(stores)
    assert await _promised(stores) == {HOME: 1024, AWAY: 1024}
    stored = await stores.sandboxes.get_any(sandbox.id)
    assert (stored.state, stored.worker_id) == (SandboxState.MIGRATING, HOME)
    assert (await stores.operations.get(operation.id)).step == "receive"
    assert (await stores.organisations.usage(sandbox.organisation_id)).sandboxes == 1
    assert [one.has_reservation for one in await stores.sandboxes.presence(AWAY)] == [True]
    assert await stores.sandboxes.on_worker(AWAY) == []
    assert await stores.placements.reserved_on(HOME) == {sandbox.id: 1024}
    assert await stores.placements.reserved_on(AWAY) == {}
    with refusing(Conflict) as refused:
        await stores.workers.forget(AWAY, is_lost=False, actor="test")
    assert refused.value.code == "worker_not_empty"


async def what_finds_no_place_writes_nothing(stores: Stores) -> None:
    """The decision is the caller's, over all workers and what is promised to it where it is."""
    sandbox = await _running(stores)
    after, _, operation = _beginning(sandbox)
    seen: list[str] = []
    promised: list[int] = []

    def nowhere(view: FleetView, reserved_mib: int) -> NoPlacement:
        seen.extend(worker.id for worker in view.workers)
        promised.append(reserved_mib)
        return NoPlacement(refusals={}, candidates=())

    assert isinstance(await stores.moves.begin(after, nowhere), NoPlacement)
    assert (sorted(seen), promised) == ([HOME, AWAY], [1024])
    assert await stores.sandboxes.get_any(sandbox.id) == sandbox
    assert await stores.operations.open_for(operation.sandbox_id) == []


async def of_two_that_read_one_row_one_moves_it(stores: Stores) -> None:
    """The version decides."""
    sandbox = await _running(stores)
    after, decide, _ = _beginning(sandbox)
    await stores.moves.begin(after, decide)
    _, other, _ = _beginning(sandbox, "op-other")
    with refusing(Conflict):
        await stores.moves.begin(after, other)
    assert await _promised(stores) == {HOME: 1024, AWAY: 1024}


async def a_commit_exchanges_both_places_with_the_owner(stores: Stores) -> None:
    """Whoever has lost the lease, or read an older row, commits nothing."""
    sandbox, operation = await _begun(stores)
    after = owned_by(sandbox, AWAY, at=NOON)
    arriving, log = replace(operation, step="arrive"), a_transition(sandbox_id=sandbox.id)
    assert operation.lease is not None
    stale = replace(arriving, lease=Lease("another", operation.lease.token + 1, operation.lease.deadline_at))
    with refusing(StaleLease):
        await stores.moves.commit(stale, after, log, source=HOME)
    with refusing(StaleVersion):
        await stores.moves.commit(arriving, replace(after, version=after.version + 1), log, source=HOME)
    assert (await stores.sandboxes.get_any(sandbox.id)).worker_id == HOME
    await stores.moves.commit(arriving, after, log, source=HOME)
    stored = await stores.sandboxes.get_any(sandbox.id)
    assert (stored.worker_id, stored.epoch) == (AWAY, sandbox.epoch + 1)
    assert (await stores.operations.get(operation.id)).step == "arrive"
    assert [one.id for one in await stores.sandboxes.on_worker(AWAY)] == [sandbox.id]
    assert await stores.sandboxes.on_worker(HOME) == []
    assert [one.has_reservation for one in await stores.sandboxes.presence(HOME)] == [True]


async def a_move_to_grow_has_its_larger_place_where_it_goes(stores: Stores) -> None:
    """It counts as large as it will be; with the commit the places exchange their amounts too."""
    sandbox = await _running(stores)
    after, decide, operation = _beginning(sandbox)

    def larger(view: FleetView, reserved_mib: int) -> MoveBeginning | NoPlacement:
        beginning = decide(view, reserved_mib)
        return replace(beginning, memory_mib=3072) if isinstance(beginning, MoveBeginning) else beginning

    await stores.moves.begin(after, larger)
    assert await _promised(stores) == {HOME: 1024, AWAY: 3072}
    assert (await stores.organisations.usage(sandbox.organisation_id)).memory_mib == 3072
    moved = owned_by(after, AWAY, at=NOON)
    log = a_transition(sandbox_id=sandbox.id)
    await stores.moves.commit(replace(operation, step="arrive"), moved, log, source=HOME)
    assert await _promised(stores) == {HOME: 1024, AWAY: 3072}
    release = an_operation(
        "op-release", kind=OperationKind.RELEASE, sandbox=sandbox.id, arguments={"move_id": operation.id}
    )
    there = advance(moved, SandboxEvent.MIGRATED, at=NOON)
    done = replace(operation, state=OperationState.SUCCEEDED, finished_at=NOON)
    await stores.operations.finish(done, sandbox=there, transition=log, follow_up=release, reserved_mib=2048)
    await stores.moves.release(replace(release, state=OperationState.SUCCEEDED, finished_at=NOON))
    assert await _promised(stores) == {HOME: 0, AWAY: 2048}


async def the_second_place_is_given_back_with_the_end_of_its_release(stores: Stores) -> None:
    """Only for the move that it belongs to."""
    sandbox, operation = await _begun(stores)
    release = an_operation(
        "op-release",
        kind=OperationKind.RELEASE,
        sandbox=sandbox.id,
        step="clear",
        arguments={"move_id": operation.id},
    )
    back = advance(sandbox, SandboxEvent.MIGRATE_FAILED, at=NOON)
    done = replace(operation, state=OperationState.FAILED, finished_at=NOON)
    log = a_transition(sandbox_id=sandbox.id)
    await stores.operations.finish(done, sandbox=back, transition=log, follow_up=release)
    assert [one.has_open_operation for one in await stores.sandboxes.presence(HOME)] == [False]
    again, decide, _ = _beginning(back, "op-again")
    with refusing(Conflict) as refused:
        await stores.moves.begin(again, decide)
    assert refused.value.code == "operation_in_progress"
    await stores.moves.release(replace(release, state=OperationState.SUCCEEDED, finished_at=NOON))
    assert await _promised(stores) == {HOME: 1024, AWAY: 0}
    assert isinstance(await stores.moves.begin(again, decide), MoveBeginning)


CHECKS: tuple[Check, ...] = (
    a_move_has_two_places_and_counts_once_for_its_organisation,
    what_finds_no_place_writes_nothing,
    of_two_that_read_one_row_one_moves_it,
    a_commit_exchanges_both_places_with_the_owner,
    a_move_to_grow_has_its_larger_place_where_it_goes,
    the_second_place_is_given_back_with_the_end_of_its_release,
)
