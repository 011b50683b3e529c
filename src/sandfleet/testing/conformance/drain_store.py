"""What every `ports.drain_store.DrainStore` keeps: somebody's word, until it is undone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from sandfleet.controlplane.dependencies import Stores
from sandfleet.model.drain import DRAIN_DEADLINE_S, Drain, DrainState, DrainTerms, Stay, StayReason
from sandfleet.model.errors import NotFound, StaleTerm
from sandfleet.model.ids import OperationId, SandboxId, WorkerId
from sandfleet.model.worker import WorkerState
from sandfleet.planning.placement import FleetView, NoPlacement
from sandfleet.testing.builders import NOON, a_worker, an_organisation
from sandfleet.testing.conformance.checking import Check, refusing
from sandfleet.testing.conformance.placement_store import asked_for

ONE, TWO = WorkerId("wk-one"), WorkerId("wk-two")
STAYS = (
    Stay(
        SandboxId("sb-1"),
        StayReason.MOVING,
        "it moves to wk-two",
        target=TWO,
        operation_id=OperationId("op-1"),
        attempts=2,
    ),
    Stay(
        SandboxId("sb-2"),
        StayReason.HELD,
        "nobody can take it",
        retry_at=NOON + timedelta(seconds=7.5),
        has_failed_to_be_kept=True,
        kept_at=NOON,
    ),
)


async def _begun(stores: Stores) -> tuple[Drain, int]:
    for name in (ONE, TWO):
        await stores.workers.register(a_worker(name))
    return await stores.drains.begin(ONE, actor="somebody"), await stores.terms.raise_term("leader")


async def a_drain_marks_its_worker_and_comes_back(stores: Stores) -> None:
    """Also when it is asked for twice; a heartbeat leaves it as it is."""
    drain, _ = await _begun(stores)
    assert (drain.worker_id, drain.actor, drain.state) == (ONE, "somebody", DrainState.DRAINING)
    assert await stores.drains.begin(ONE, actor="another") == drain
    await stores.workers.register(a_worker(ONE, sequence=2))
    assert [worker.draining for worker in await stores.workers.list()] == [True, False]
    assert await stores.drains.get(ONE) == drain
    assert await stores.drains.get(TWO) is None
    assert await stores.drains.list() == [drain]


async def what_the_leader_saw_comes_back_as_it_was(stores: Stores) -> None:
    """Every field; and the time at which it was drained is set once, and taken back with the state."""
    drain, term = await _begun(stores)
    seen = replace(drain, moved=3, stays=STAYS)
    assert await stores.drains.save(seen, term=term)
    assert await stores.drains.get(ONE) == seen
    drained = replace(seen, state=DrainState.DRAINED, stays=())
    assert await stores.drains.save(drained, term=term)
    first = await stores.drains.get(ONE)
    assert first is not None
    assert first.drained_at is not None
    assert first == replace(drained, drained_at=first.drained_at)
    assert await stores.drains.save(drained, term=term)
    assert await stores.drains.get(ONE) == first
    assert await stores.drains.save(seen, term=term)
    assert await stores.drains.get(ONE) == seen


async def what_is_agreed_stands_until_its_owner_agrees_otherwise(stores: Stores) -> None:
    """The deadline is the database's own time from then; a repeat without terms changes nothing."""
    await _begun(stores)
    first = await stores.drains.get(ONE)
    assert first is not None
    assert first.deadline_at is not None
    assert first.deadline_at - first.begun_at == timedelta(seconds=DRAIN_DEADLINE_S)
    assert (first.reason, first.hibernates, first.slept) == ("asked for", True, 0)
    assert await stores.drains.begin(ONE, actor="another") == first
    terms = DrainTerms("a new disk", 120, hibernates=False)
    now = await stores.drains.begin(ONE, actor="another", terms=terms)
    assert now.begun_at == first.begun_at
    assert now.deadline_at is not None
    assert now.deadline_at < first.deadline_at
    assert (now.reason, now.hibernates, now.actor) == ("a new disk", False, "another")
    assert await stores.drains.get(ONE) == now


async def a_drain_that_is_stuck_says_since_when_and_goes_on(stores: Stores) -> None:
    """Each change of its state is told once; what was agreed is not what the leader writes."""
    drain, term = await _begun(stores)
    stuck = replace(drain, state=DrainState.STUCK, stays=STAYS, slept=2, deadline_at=NOON, reason="other")
    assert await stores.drains.save(stuck, term=term)
    seen = await stores.drains.get(ONE)
    assert seen is not None
    assert seen.stuck_at is not None
    assert seen == replace(stuck, deadline_at=drain.deadline_at, reason=drain.reason, stuck_at=seen.stuck_at)
    assert await stores.drains.save(replace(stuck, moved=1), term=term)
    again = await stores.drains.get(ONE)
    assert again == replace(seen, moved=1)
    assert await stores.drains.save(replace(stuck, state=DrainState.DRAINING), term=term)
    draining = await stores.drains.get(ONE)
    assert draining is not None
    assert draining.stuck_at is None


async def an_undone_drain_is_gone_and_what_was_seen_of_it_is_not_written(stores: Stores) -> None:
    """Nor what was seen of it into the one that begins after it."""
    drain, term = await _begun(stores)
    assert await stores.drains.end(ONE, actor="somebody")
    assert not await stores.drains.end(ONE, actor="somebody")
    assert [worker.draining for worker in await stores.workers.list()] == [False, False]
    assert not await stores.drains.save(replace(drain, moved=1), term=term)
    assert await stores.drains.get(ONE) is None
    again = await stores.drains.begin(ONE, actor="somebody")
    older = replace(drain, begun_at=again.begun_at - timedelta(seconds=1), moved=1)
    assert not await stores.drains.save(older, term=term)
    assert await stores.drains.get(ONE) == again


async def an_old_leader_writes_nothing_of_a_drain(stores: Stores) -> None:
    drain, term = await _begun(stores)
    await stores.terms.raise_term("another")
    with refusing(StaleTerm):
        await stores.drains.save(replace(drain, moved=1), term=term)
    assert await stores.drains.get(ONE) == drain


async def nobody_drains_what_is_not_there_or_gone(stores: Stores) -> None:
    """And a worker that is taken off the fleet takes its drain with it."""
    await _begun(stores)
    with refusing(NotFound):
        await stores.drains.begin(WorkerId("wk-none"), actor="somebody")
    with refusing(NotFound):
        await stores.drains.end(WorkerId("wk-none"), actor="somebody")
    gone = await stores.workers.forget(ONE, is_lost=False, actor="somebody")
    assert gone.state is WorkerState.GONE
    assert await stores.drains.list() == []
    with refusing(NotFound):
        await stores.drains.begin(ONE, actor="somebody")


async def placement_sees_a_drain_from_the_moment_it_stands(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    await _begun(stores)
    seen: dict[str, bool] = {}

    def look(view: FleetView, waiting: object) -> NoPlacement:
        seen.update({worker.id: worker.draining for worker in view.workers})
        return NoPlacement(refusals={})

    operation, sandbox = await asked_for(stores, "sb-one")
    await stores.placements.place(operation, sandbox, look, at=NOON)
    assert seen == {ONE: True, TWO: False}


CHECKS: tuple[Check, ...] = (
    a_drain_marks_its_worker_and_comes_back,
    what_the_leader_saw_comes_back_as_it_was,
    what_is_agreed_stands_until_its_owner_agrees_otherwise,
    a_drain_that_is_stuck_says_since_when_and_goes_on,
    an_undone_drain_is_gone_and_what_was_seen_of_it_is_not_written,
    an_old_leader_writes_nothing_of_a_drain,
    nobody_drains_what_is_not_there_or_gone,
    placement_sees_a_drain_from_the_moment_it_stands,
)
