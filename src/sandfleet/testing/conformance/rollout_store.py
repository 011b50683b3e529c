"""What every `ports.rollout_store.RolloutStore` keeps: one roll-out at a time, and nobody's word is lost."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from sandfleet.controlplane.dependencies import Stores
from sandfleet.model.drain import DrainOwner
from sandfleet.model.errors import Conflict, NotFound, StaleTerm, StaleVersion
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.operation import OperationState
from sandfleet.planning.fleet import DrainWorker, FleetCommand, Surge
from sandfleet.planning.rollout_health import Wellness
from sandfleet.planning.rollout_state import Rollout, RolloutStage
from sandfleet.ports.fleet_store import FleetDecision
from sandfleet.ports.rollout_store import Proof, RolloutStep, StoredRollout
from sandfleet.ports.stores import Placed
from sandfleet.testing.builders import NOON, a_worker, an_organisation
from sandfleet.testing.conformance.checking import Check, refusing
from sandfleet.testing.conformance.placement_store import asked_for, place

ONE = WorkerId("wk-one")
LATER = NOON + timedelta(seconds=90, microseconds=1)
SURGE = Surge(2, "2", is_under_way=True, above_max=3)


async def _begun(stores: Stores, version: str = "2", previous: str = "1") -> StoredRollout:
    return await stores.rollouts.begin(version, previous, actor="key k", at=NOON)


async def _current(stores: Stores) -> StoredRollout:
    found = await stores.rollouts.current()
    assert found is not None
    return found


async def _record(stores: Stores, after: StoredRollout, *commands: FleetCommand, term: int) -> None:
    await stores.fleet.record(FleetDecision(DrainOwner.ROLLOUT, commands, rollout=after), term=term)


async def _reach(stores: Stores, *stages: RolloutStage, term: int, reason: str = "") -> StoredRollout:
    for stage in stages:
        before = await _current(stores)
        rollout = replace(before.rollout, stage=stage, stage_at=LATER, reason=reason)
        await _record(stores, before.after(rollout, actor="rollout"), term=term)
    return await _current(stores)


async def a_roll_out_comes_back_as_it_was_written(stores: Stores) -> None:
    """With everything that it is made of, and its steps."""
    term = await stores.terms.raise_term("leader")
    assert await stores.rollouts.current() is None
    assert await stores.rollouts.list() == []
    begun = await _begun(stores)
    rollout = Rollout("2", "1", RolloutStage.BOOT_TEST, NOON, NOON)
    first = RolloutStep(RolloutStage.BOOT_TEST, NOON, "key k")
    assert begun == StoredRollout(begun.number, rollout, "key k", steps=(first,))
    assert await stores.rollouts.current() == begun
    back = replace(rollout, stage=RolloutStage.TURNING_BACK, stage_at=LATER, reason="why")
    after = begun.after(back, actor="rollout", surge=SURGE, said="one sentence")
    await _record(stores, after, term=term)
    steps = (first, RolloutStep(RolloutStage.TURNING_BACK, LATER, "rollout", "why"))
    assert await _current(stores) == replace(after, revision=2, steps=steps)
    assert await stores.rollouts.list() == [await _current(stores)]
    kept = (await _current(stores)).after(back, actor="rollout", said="another")
    assert kept.steps == steps
    assert kept.surge == SURGE


async def one_is_under_way_at_a_time(stores: Stores) -> None:
    """Asked for twice it is one; another version waits until it has ended."""
    term = await stores.terms.raise_term("leader")
    begun = await _begun(stores)
    assert await _begun(stores) == begun
    with refusing(Conflict) as refused:
        await _begun(stores, "3", "1")
    assert refused.value.code == "rollout_under_way"
    await _reach(stores, RolloutStage.CANARY, RolloutStage.FLEET, RolloutStage.DONE, term=term)
    with refusing(Conflict) as refused:
        await _begun(stores, "2", "2")
    assert refused.value.code == "version_runs"
    second = await _begun(stores, "3", "2")
    assert second.number > begun.number
    assert [one.rollout.version for one in await stores.rollouts.list()] == ["3", "2"]


async def a_version_is_tested_once_and_again_after_it_was_refused(stores: Stores) -> None:
    term = await stores.terms.raise_term("leader")
    assert await stores.rollouts.version("2") is None
    await _begun(stores)
    registered = await stores.rollouts.version("2")
    assert registered is not None
    assert (registered.registered_by, registered.tested_at, registered.refused_at) == ("key k", None, None)
    await _reach(stores, RolloutStage.CANARY, RolloutStage.FLEET, RolloutStage.DONE, term=term)
    tested = await stores.rollouts.version("2")
    assert tested is not None
    assert tested.tested_at is not None
    back = RolloutStage.TURNING_BACK, RolloutStage.TURNED_BACK
    await _begun(stores, "1", "2")
    await _reach(stores, RolloutStage.CANARY, *back, term=term, reason="not well")
    refused = await stores.rollouts.version("1")
    assert refused is not None
    assert (refused.tested_at, refused.said) == (None, "not well")
    assert refused.refused_at is not None
    # One of the new version that comes back is no second refusal of the old.
    await _reach(stores, *back, term=term, reason="again")
    assert await stores.rollouts.version("1") == refused
    assert (await _begun(stores, "1", "3")).rollout.stage is RolloutStage.BOOT_TEST
    await _reach(stores, *back, term=term)
    assert (await _begun(stores, "2", "1")).rollout.stage is RolloutStage.CANARY


async def a_new_worker_takes_nothing_before_its_version_has_passed(stores: Stores) -> None:
    """Workers of other versions do, and all of them after it."""
    term = await stores.terms.raise_term("leader")
    await stores.workers.register(a_worker("wk-before", worker_version="2"))
    await _begun(stores)
    await stores.workers.register(a_worker(ONE, worker_version="2"))
    await stores.workers.register(a_worker("wk-old", worker_version="1"))
    await stores.workers.register(a_worker("wk-before", worker_version="2", sequence=2))
    cordoned = {one.id: one.cordoned for one in await stores.workers.list()}
    assert cordoned == {"wk-before": False, ONE: True, "wk-old": False}
    await stores.workers.register(a_worker(ONE, worker_version="2", sequence=2))
    assert (await stores.workers.get(ONE)).cordoned
    await _reach(stores, RolloutStage.CANARY, term=term)
    assert not (await stores.workers.get(ONE)).cordoned
    await stores.workers.register(a_worker("wk-two", worker_version="2"))
    assert not (await stores.workers.get(WorkerId("wk-two"))).cordoned


async def what_is_refused_takes_nothing(stores: Stores) -> None:
    term = await stores.terms.raise_term("leader")
    await _begun(stores)
    await stores.workers.register(a_worker(ONE, worker_version="2"))
    await _reach(stores, RolloutStage.TURNING_BACK, RolloutStage.TURNED_BACK, term=term)
    assert (await stores.workers.get(ONE)).cordoned


async def a_decision_on_a_roll_out_that_was_changed_meanwhile_writes_nothing(stores: Stores) -> None:
    """The operator's word stands; none of the commands does."""
    term = await stores.terms.raise_term("leader")
    await stores.workers.register(a_worker(ONE))
    seen = await _begun(stores)
    called_off = await stores.rollouts.cancel(seen.number, actor="key k", at=LATER)
    assert called_off.rollout.stage is RolloutStage.TURNING_BACK
    assert called_off.rollout.reason == "called off by key k"
    assert called_off.steps[-1] == RolloutStep(
        RolloutStage.TURNING_BACK, LATER, "key k", "called off by key k"
    )
    after = seen.after(replace(seen.rollout, stage=RolloutStage.CANARY), actor="rollout")
    drain = DrainWorker(ONE, DrainOwner.ROLLOUT, "why")
    with refusing(StaleVersion):
        await _record(stores, after, drain, term=term)
    assert await _current(stores) == called_off
    assert await stores.drains.list() == []


async def the_same_decision_twice_is_one(stores: Stores) -> None:
    """The answer to the first may have been lost."""
    term = await stores.terms.raise_term("leader")
    begun = await _begun(stores)
    after = begun.after(replace(begun.rollout, stage=RolloutStage.CANARY), actor="rollout", said="x")
    await _record(stores, after, term=term)
    written = await _current(stores)
    await _record(stores, after, term=term)
    assert await _current(stores) == written


async def an_old_leader_takes_no_step(stores: Stores) -> None:
    old = await stores.terms.raise_term("leader")
    await stores.workers.register(a_worker(ONE, worker_version="2"))
    begun = await _begun(stores)
    await stores.terms.raise_term("another")
    after = begun.after(replace(begun.rollout, stage=RolloutStage.CANARY), actor="rollout")
    with refusing(StaleTerm):
        await _record(stores, after, term=old)
    with refusing(StaleTerm):
        await stores.rollouts.save_proof(Proof(ONE, "2", proven_at=NOON), term=old)
    assert await _current(stores) == begun
    assert await stores.rollouts.proofs() == {}


async def one_is_called_off_once_and_not_after_its_end(stores: Stores) -> None:
    term = await stores.terms.raise_term("leader")
    with refusing(NotFound):
        await stores.rollouts.cancel(1, actor="key k", at=LATER)
    begun = await _begun(stores)
    with refusing(NotFound):
        await stores.rollouts.cancel(begun.number + 1, actor="key k", at=LATER)
    called_off = await stores.rollouts.cancel(begun.number, actor="key k", at=LATER)
    assert await stores.rollouts.cancel(begun.number, actor="another", at=LATER) == called_off
    await _reach(stores, RolloutStage.TURNED_BACK, term=term)
    with refusing(Conflict) as refused:
        await stores.rollouts.cancel(begun.number, actor="key k", at=LATER)
    assert refused.value.code == "rollout_over"
    await _begun(stores, "3", "1")
    with refusing(Conflict):
        await stores.rollouts.cancel(begun.number, actor="key k", at=LATER)
    assert (await _current(stores)).rollout.stage is RolloutStage.BOOT_TEST


async def a_proof_is_of_one_version_and_of_a_worker_that_is_there(stores: Stores) -> None:
    term = await stores.terms.raise_term("leader")
    await stores.workers.register(a_worker(ONE, worker_version="2"))
    trying = Proof(ONE, "2", 3, 2, SandboxId("sb-x"), NOON, None, "it did not start")
    await stores.rollouts.save_proof(trying, term=term)
    assert await stores.rollouts.proofs() == {ONE: trying}
    proven = replace(trying, attempts=4, sandbox_id=None, proven_at=LATER, said="")
    await stores.rollouts.save_proof(proven, term=term)
    assert await stores.rollouts.proofs() == {ONE: proven}
    await stores.workers.register(a_worker(ONE, worker_version="3", sequence=2))
    assert await stores.rollouts.proofs() == {}
    await stores.workers.register(a_worker(ONE, worker_version="2", sequence=3))
    await stores.workers.forget(ONE, is_lost=False, actor="key k")
    assert await stores.rollouts.proofs() == {}


async def how_a_worker_fares_is_counted_by_what_ended_on_it(stores: Stores) -> None:
    await stores.workers.register(a_worker(ONE))
    await stores.organisations.create(an_organisation())
    since = timedelta(minutes=15)
    assert await stores.rollouts.wellness([ONE], since=since) == {}
    for number, state in enumerate(
        (OperationState.SUCCEEDED, OperationState.FAILED, OperationState.CANCELLED)
    ):
        operation, sandbox = await asked_for(stores, f"sb-{number}")
        placed = await place(stores, operation, sandbox)
        assert isinstance(placed, Placed)
        now = (await stores.workers.get(ONE)).last_seen_at
        done = replace(placed.operation, state=state, finished_at=now)
        await stores.operations.finish(done)
    assert await stores.rollouts.wellness([ONE], since=since) == {ONE: Wellness(False, 2, 1)}
    assert await stores.rollouts.wellness([ONE], since=timedelta(0)) == {}
    assert await stores.rollouts.wellness([WorkerId("wk-other")], since=since) == {}


CHECKS: tuple[Check, ...] = (
    a_roll_out_comes_back_as_it_was_written,
    one_is_under_way_at_a_time,
    a_version_is_tested_once_and_again_after_it_was_refused,
    a_new_worker_takes_nothing_before_its_version_has_passed,
    what_is_refused_takes_nothing,
    a_decision_on_a_roll_out_that_was_changed_meanwhile_writes_nothing,
    the_same_decision_twice_is_one,
    an_old_leader_takes_no_step,
    one_is_called_off_once_and_not_after_its_end,
    a_proof_is_of_one_version_and_of_a_worker_that_is_there,
    how_a_worker_fares_is_counted_by_what_ended_on_it,
)
