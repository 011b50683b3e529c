"""What every `ports.fleet_store.FleetStore` keeps: decisions are whole, and no machine is lost sight of."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

from sandfleet.controlplane.dependencies import Stores
from sandfleet.model.drain import DrainOwner
from sandfleet.model.errors import Conflict, StaleTerm
from sandfleet.model.ids import WorkerId
from sandfleet.model.launch import Launch, LaunchFailure, LaunchId, LaunchState
from sandfleet.model.machine import Machine, MachineState
from sandfleet.model.worker import WorkerState
from sandfleet.planning.backoff import Backoff
from sandfleet.planning.capacity_figures import CapacityFigures
from sandfleet.planning.capacity_memory import CapacityMemory
from sandfleet.planning.demand import DemandHistory
from sandfleet.planning.fleet import (
    AbandonLaunch,
    DrainWorker,
    FleetCommand,
    KeepWorker,
    LaunchMachine,
    RemoveWorker,
)
from sandfleet.ports.fleet_store import ENDED_LAUNCHES_KEPT, FleetDecision
from sandfleet.testing.builders import NOON, a_worker, an_organisation
from sandfleet.testing.conformance.checking import Check, refusing
from sandfleet.testing.conformance.placement_store import asked_for, place

CAPACITY, ROLLOUT = DrainOwner.CAPACITY, DrainOwner.ROLLOUT
ONE, TWO = WorkerId("wk-one"), WorkerId("wk-two")
FIRST = LaunchId("launch-00000001")
MEMORY = CapacityMemory(
    demand=DemandHistory().with_sample(4096, now=NOON),
    boots_s={"local/small": (11.5, 12.25)},
    backoffs={"ec2": Backoff(3, NOON + timedelta(microseconds=1), LaunchFailure.THROTTLED)},
    launches=7,
    launched_at=NOON,
    drained_at=NOON + timedelta(seconds=1),
    returned_at={ONE: NOON},
    settled=(FIRST,),
    figures=CapacityFigures(desired=3, current=2, frozen="2 of 3 are unhealthy"),
)


async def _recorded(
    stores: Stores, *commands: FleetCommand, term: int, by: DrainOwner = CAPACITY
) -> list[tuple[FleetCommand, str]]:
    left_out = await stores.fleet.record(FleetDecision(by, commands), term=term)
    return [(one.command, one.because) for one in left_out]


def _launched(launch_id: LaunchId = FIRST) -> LaunchMachine:
    return LaunchMachine(launch_id, "local/small", "v1", "two are wanted")


async def _launch(stores: Stores) -> Launch:
    (launch,) = await stores.fleet.launches()
    return launch


async def _joined(stores: Stores, term: int) -> None:
    """A worker that the fleet has launched itself."""
    assert await _recorded(stores, _launched(), term=term) == []
    assert await stores.fleet.name_machine(FIRST, "m-1", term=term)
    await stores.workers.register(a_worker(ONE, machine_id="m-1"))
    assert await stores.fleet.join(FIRST, ONE, term=term)


async def _hold(stores: Stores) -> None:
    """Let one sandbox be promised a place on the only worker that there is."""
    await stores.organisations.create(an_organisation())
    operation, sandbox = await asked_for(stores, "sb-one")
    await place(stores, operation, sandbox)


async def what_the_planner_remembers_comes_back(stores: Stores) -> None:
    """And what a decision does not speak of stays."""
    term = await stores.terms.raise_term("leader")
    assert await stores.fleet.memory() == CapacityMemory()
    await stores.fleet.record(FleetDecision(CAPACITY, memory=MEMORY), term=term)
    assert await stores.fleet.memory() == MEMORY
    await stores.fleet.record(FleetDecision(ROLLOUT), term=term)
    assert await stores.fleet.memory() == MEMORY


async def an_old_leader_records_nothing(stores: Stores) -> None:
    """Neither what it remembers nor a command, nor anything of a machine."""
    old = await stores.terms.raise_term("leader")
    await stores.workers.register(a_worker(ONE))
    await _recorded(stores, _launched(), term=old)
    before = await _launch(stores)
    await stores.terms.raise_term("another")
    commands = (_launched(LaunchId("launch-00000002")), DrainWorker(ONE, CAPACITY, "spare"))
    with refusing(StaleTerm):
        await stores.fleet.record(FleetDecision(CAPACITY, commands, MEMORY), term=old)
    with refusing(StaleTerm):
        await stores.fleet.name_machine(FIRST, "m-1", term=old)
    with refusing(StaleTerm):
        await stores.fleet.join(FIRST, ONE, term=old)
    with refusing(StaleTerm):
        await stores.fleet.fail(FIRST, LaunchFailure.QUOTA, said="no", term=old)
    with refusing(StaleTerm):
        await stores.fleet.take_off(FIRST, term=old)
    with refusing(StaleTerm):
        await stores.fleet.let_go(FIRST, term=old)
    orphan = Machine("m-9", None, "small", MachineState.RUNNING, NOON)
    with refusing(StaleTerm):
        await stores.fleet.end_orphan(orphan, pool="local", term=old)
    assert await stores.fleet.launches() == [before]
    assert await stores.fleet.memory() == CapacityMemory()
    assert await stores.drains.list() == []


async def a_launch_comes_back_at_each_step_of_its_life(stores: Stores) -> None:
    """And a step that was taken is not taken again."""
    term = await stores.terms.raise_term("leader")
    await _recorded(stores, _launched(), term=term)
    asked = await _launch(stores)
    assert asked == Launch(FIRST, "local/small", "v1", asked.requested_at, reason="two are wanted")
    await _recorded(stores, replace(_launched(), size="local/other"), term=term)
    assert await _launch(stores) == asked
    assert await stores.fleet.name_machine(FIRST, "m-1", term=term)
    assert await _launch(stores) == replace(asked, machine_id="m-1")
    await stores.workers.register(a_worker(ONE, machine_id="m-1"))
    assert await stores.fleet.join(FIRST, ONE, term=term)
    joined = await _launch(stores)
    assert (joined.state, joined.worker_id, joined.gone_at) == (LaunchState.JOINED, ONE, None)
    assert joined.ended_at is not None
    assert joined.ended_at >= joined.requested_at
    assert not await stores.fleet.join(FIRST, TWO, term=term)
    assert not await stores.fleet.fail(FIRST, LaunchFailure.QUOTA, said="no", term=term)
    assert not await stores.fleet.let_go(FIRST, term=term)
    assert await _launch(stores) == joined


async def what_failed_owns_its_machine_until_it_is_gone(stores: Stores) -> None:
    term = await stores.terms.raise_term("leader")
    assert not await stores.fleet.fail(FIRST, LaunchFailure.QUOTA, said="no", term=term)
    await _recorded(stores, _launched(), term=term)
    assert await stores.fleet.fail(FIRST, LaunchFailure.STOCKOUT, said="none left", term=term)
    failed = await _launch(stores)
    assert (failed.state, failed.failure) == (LaunchState.FAILED, LaunchFailure.STOCKOUT)
    assert (failed.said, failed.is_ending, failed.ending_since) == ("none left", True, failed.ended_at)
    assert not await stores.fleet.join(FIRST, ONE, term=term)
    assert await stores.fleet.take_off(FIRST, term=term)
    assert await stores.fleet.let_go(FIRST, term=term)
    gone = await _launch(stores)
    assert gone.gone_at is not None
    assert not gone.is_ending
    assert await stores.fleet.let_go(FIRST, term=term)
    assert await _launch(stores) == gone


async def an_empty_worker_is_gone_when_its_machine_is_given_up(stores: Stores) -> None:
    """It was drained by whoever removes it; no heartbeat brings it back, and its drain goes with it."""
    term = await stores.terms.raise_term("leader")
    await _joined(stores, term)
    remove = RemoveWorker(ONE, "it is empty")
    assert await _recorded(stores, remove, term=term) == [(remove, "wk-one is not drained by capacity")]
    await _recorded(stores, DrainWorker(ONE, CAPACITY, "spare"), term=term)
    left_out = await _recorded(stores, remove, term=term, by=ROLLOUT)
    assert left_out == [(remove, "wk-one is not drained by rollout")]
    assert not (await _launch(stores)).is_ending
    assert await _recorded(stores, remove, term=term) == []
    await stores.workers.register(a_worker(ONE, machine_id="m-1", sequence=2))
    assert (await stores.workers.get(ONE)).state is WorkerState.GONE
    assert await stores.drains.list() == []
    ending = await _launch(stores)
    assert (ending.state, ending.is_ending) == (LaunchState.JOINED, True)
    assert await stores.fleet.take_off(FIRST, term=term)


async def one_that_nobody_can_reach_is_drained_and_removed_in_one_decision(stores: Stores) -> None:
    term = await stores.terms.raise_term("leader")
    await _joined(stores, term)
    for state in (WorkerState.SILENT, WorkerState.UNREACHABLE):
        assert await stores.workers.mark_absent(state, silent_for=timedelta(seconds=-60), term=term)
    commands = DrainWorker(ONE, ROLLOUT, "away"), RemoveWorker(ONE, "away")
    assert await _recorded(stores, *commands, term=term, by=ROLLOUT) == []
    assert (await stores.workers.get(ONE)).state is WorkerState.GONE
    assert (await _launch(stores)).is_ending


async def a_machine_ends_with_the_worker_that_somebody_forgets(stores: Stores) -> None:
    """Also with one that is said to be lost: nothing that it still runs may go on."""
    term = await stores.terms.raise_term("leader")
    await _joined(stores, term)
    await _hold(stores)
    with refusing(Conflict):
        await stores.workers.forget(ONE, is_lost=False, actor="somebody")
    assert not (await _launch(stores)).is_ending
    assert await stores.workers.mark_absent(WorkerState.SILENT, silent_for=timedelta(seconds=-60), term=term)
    await stores.workers.forget(ONE, is_lost=True, actor="somebody")
    ending = await _launch(stores)
    assert (ending.state, ending.is_ending) == (LaunchState.JOINED, True)
    await stores.workers.forget(ONE, is_lost=True, actor="somebody")
    assert await _launch(stores) == ending
    assert await stores.fleet.take_off(FIRST, term=term)
    assert await stores.fleet.let_go(FIRST, term=term)


async def no_worker_is_removed_to_which_something_is_promised(stores: Stores) -> None:
    term = await stores.terms.raise_term("leader")
    await _joined(stores, term)
    await _hold(stores)
    remove = RemoveWorker(ONE, "it is empty")
    left_out = await _recorded(stores, DrainWorker(ONE, CAPACITY, "spare"), remove, term=term)
    assert [command for command, _ in left_out] == [remove]
    assert (await stores.workers.get(ONE)).state is WorkerState.READY
    assert not (await _launch(stores)).is_ending


async def a_machine_that_the_fleet_did_not_launch_is_not_removed(stores: Stores) -> None:
    term = await stores.terms.raise_term("leader")
    await stores.workers.register(a_worker(ONE))
    remove = RemoveWorker(ONE, "it is empty")
    left_out = await _recorded(stores, DrainWorker(ONE, CAPACITY, "spare"), remove, term=term)
    assert left_out == [(remove, "the machine of wk-one was not launched by the fleet")]
    assert (await stores.workers.get(ONE)).state is WorkerState.READY


async def nobody_calls_off_the_drain_of_another(stores: Stores) -> None:
    """But an operator, whose word also makes a drain his own."""
    term = await stores.terms.raise_term("leader")
    await stores.workers.register(a_worker(ONE))
    drain, keep = DrainWorker(ONE, CAPACITY, "spare"), KeepWorker(ONE, CAPACITY, "needed")
    other = DrainWorker(ONE, ROLLOUT, "old")
    left_out = await _recorded(stores, keep, drain, other, KeepWorker(ONE, ROLLOUT, "needed"), term=term)
    assert [because for _, because in left_out] == [
        "wk-one is not drained by capacity",
        "wk-one is drained by capacity already",
        "wk-one is not drained by rollout",
    ]
    begun = await stores.drains.get(ONE)
    assert begun is not None
    assert (begun.owner, begun.actor, begun.reason) == (CAPACITY, "capacity", "spare")
    taken = await stores.drains.begin(ONE, actor="somebody")
    assert (taken.owner, taken.actor, taken.begun_at) == (DrainOwner.OPERATOR, "somebody", begun.begun_at)
    assert [command for command, _ in await _recorded(stores, keep, drain, term=term)] == [keep, drain]
    assert await stores.drains.get(ONE) == taken
    assert await stores.drains.end(ONE, actor="somebody")
    assert await _recorded(stores, drain, keep, term=term) == []
    assert await stores.drains.get(ONE) is None
    assert not (await stores.workers.get(ONE)).draining


async def what_happened_meanwhile_leaves_out_one_command_and_no_other(stores: Stores) -> None:
    term = await stores.terms.raise_term("leader")
    missing = DrainWorker(WorkerId("wk-none"), CAPACITY, "spare")
    unknown = AbandonLaunch(LaunchId("launch-none"), "late")
    left_out = await _recorded(stores, missing, unknown, _launched(), term=term)
    assert left_out == [
        (missing, "worker wk-none not found"),
        (unknown, "launch-none is not pending any more"),
    ]
    assert (await _launch(stores)).id == FIRST


async def a_worker_of_a_machine_that_was_given_up_is_gone_from_the_first(stores: Stores) -> None:
    """By either of the names that a worker may give its machine."""
    term = await stores.terms.raise_term("leader")
    await _recorded(stores, _launched(), term=term)
    await stores.fleet.name_machine(FIRST, "m-1", term=term)
    assert await _recorded(stores, AbandonLaunch(FIRST, "late"), term=term) == []
    given_up = await _launch(stores)
    assert (given_up.failure, given_up.said) == (LaunchFailure.BROKEN, "late")
    for name, machine in ((ONE, "m-1"), (TWO, str(FIRST))):
        await stores.workers.register(a_worker(name, machine_id=machine))
        assert (await stores.workers.get(name)).state is WorkerState.GONE
    await stores.workers.register(a_worker("wk-other", machine_id="m-2"))
    assert (await stores.workers.get(WorkerId("wk-other"))).state is WorkerState.READY
    assert await stores.fleet.take_off(FIRST, term=term)
    assert await stores.fleet.let_go(FIRST, term=term)
    await stores.workers.register(a_worker("wk-late", machine_id="m-1"))
    assert (await stores.workers.get(WorkerId("wk-late"))).state is WorkerState.GONE


async def a_launch_whose_worker_has_reported_is_not_given_up(stores: Stores) -> None:
    term = await stores.terms.raise_term("leader")
    await _recorded(stores, _launched(), term=term)
    await stores.workers.register(a_worker(ONE, machine_id=FIRST))
    abandon = AbandonLaunch(FIRST, "late")
    assert await _recorded(stores, abandon, term=term) == [(abandon, "wk-one has reported from its machine")]
    assert not await stores.fleet.fail(FIRST, LaunchFailure.BROKEN, said="late", term=term)
    assert (await _launch(stores)).state is LaunchState.PENDING
    assert await stores.fleet.join(FIRST, ONE, term=term)


async def of_a_first_heartbeat_and_an_end_one_heeds_the_other(stores: Stores) -> None:
    """At no time has a launch that was given up a worker that takes sandboxes."""
    term = await stores.terms.raise_term("leader")
    for number in range(20):
        launch_id, worker_id = LaunchId(f"launch-{number:08}"), WorkerId(f"wk-{number}")
        await _recorded(stores, _launched(launch_id), term=term)
        registered, is_given_up = await asyncio.gather(
            stores.workers.register(a_worker(worker_id, machine_id=launch_id)),
            stores.fleet.fail(launch_id, LaunchFailure.BROKEN, said="late", term=term),
        )
        assert (registered.worker.state is WorkerState.GONE) == is_given_up


async def a_machine_whose_name_came_late_ends_only_if_its_worker_is_empty(stores: Stores) -> None:
    """Until the pool has named it nobody knows whose worker that is."""
    term = await stores.terms.raise_term("leader")
    await _recorded(stores, _launched(), term=term)
    await stores.fleet.fail(FIRST, LaunchFailure.BROKEN, said="no answer", term=term)
    await stores.workers.register(a_worker(ONE, machine_id="m-1"))
    await _hold(stores)
    await stores.fleet.name_machine(FIRST, "m-1", term=term)
    await stores.workers.register(a_worker(ONE, machine_id="m-1", sequence=2))
    assert not await stores.fleet.take_off(FIRST, term=term)
    found = await _launch(stores)
    assert (found.state, found.worker_id, found.failure) == (LaunchState.JOINED, ONE, None)
    assert not found.is_ending
    assert (await stores.workers.get(ONE)).state is WorkerState.READY


async def a_machine_that_no_launch_owns_gets_one_that_ends_it(stores: Stores) -> None:
    """Its own, if that was thought to be over; of a machine that is owned nothing changes."""
    term = await stores.terms.raise_term("leader")
    await _recorded(stores, _launched(), term=term)
    owned = Machine("m-1", FIRST, "small", MachineState.RUNNING, NOON)
    assert not await stores.fleet.end_orphan(owned, pool="local", term=term)
    await stores.fleet.name_machine(FIRST, "m-1", term=term)
    assert not await stores.fleet.end_orphan(owned, pool="local", term=term)
    twin = replace(owned, id="m-2")
    unnamed = replace(owned, id="m-3", launch_id=None)
    for machine in (twin, unnamed):
        assert await stores.fleet.end_orphan(machine, pool="local", term=term)
        assert not await stores.fleet.end_orphan(machine, pool="local", term=term)
    mine, *orphans = await stores.fleet.launches()
    assert (mine.machine_id, mine.is_ending) == ("m-1", False)
    assert [(one.id, one.size, one.machine_id, one.is_ending) for one in orphans] == [
        ("orphan-m-2", "local/small", "m-2", True),
        ("orphan-m-3", "local/small", "m-3", True),
    ]
    assert [(one.failure, one.ended_at) for one in orphans] == [(None, None)] * 2
    await stores.workers.register(a_worker(ONE, machine_id="m-3"))
    assert (await stores.workers.get(ONE)).state is WorkerState.GONE


async def a_machine_that_comes_back_is_its_launchs_again(stores: Stores) -> None:
    """It ends, unless something lives on it by then."""
    term = await stores.terms.raise_term("leader")
    await _recorded(stores, _launched(), AbandonLaunch(FIRST, "late"), term=term)
    await stores.fleet.let_go(FIRST, term=term)
    machine = Machine("m-1", FIRST, "small", MachineState.RUNNING, NOON)
    await stores.workers.register(a_worker(ONE, machine_id="m-1"))
    await _hold(stores)
    assert await stores.fleet.end_orphan(machine, pool="local", term=term)
    ending = await _launch(stores)
    assert (ending.id, ending.machine_id, ending.is_ending) == (FIRST, "m-1", True)
    # Who was there before the end was decided is not lost by its next heartbeat.
    await stores.workers.register(a_worker(ONE, machine_id="m-1", sequence=2))
    assert (await stores.workers.get(ONE)).state is WorkerState.READY
    assert not await stores.fleet.take_off(FIRST, term=term)
    found = await _launch(stores)
    assert (found.state, found.worker_id, found.gone_at) == (LaunchState.JOINED, ONE, None)


async def of_launches_that_are_over_the_newest_are_told(stores: Stores) -> None:
    """All others own a machine, and are told however many there are; what is long over is deleted."""
    term = await stores.terms.raise_term("leader")
    ids = [LaunchId(f"launch-{number:08}") for number in range(ENDED_LAUNCHES_KEPT + 3)]
    commands = [_launched(one) for one in ids] + [AbandonLaunch(one, "late") for one in ids]
    assert await _recorded(stores, *commands, term=term) == []
    assert [one.id for one in await stores.fleet.launches()] == ids
    for launch_id in ids[1:]:
        assert await stores.fleet.let_go(launch_id, term=term)
    assert [one.id for one in await stores.fleet.launches()] == [ids[0], *ids[3:]]
    assert await stores.fleet.remove_old(gone_for=timedelta(days=1)) == 0
    removed = await stores.fleet.remove_old(gone_for=timedelta(seconds=-60), limit=ENDED_LAUNCHES_KEPT)
    assert removed == ENDED_LAUNCHES_KEPT
    assert len(await stores.fleet.launches()) == 3


CHECKS: tuple[Check, ...] = (
    what_the_planner_remembers_comes_back,
    an_old_leader_records_nothing,
    a_launch_comes_back_at_each_step_of_its_life,
    what_failed_owns_its_machine_until_it_is_gone,
    an_empty_worker_is_gone_when_its_machine_is_given_up,
    one_that_nobody_can_reach_is_drained_and_removed_in_one_decision,
    a_machine_ends_with_the_worker_that_somebody_forgets,
    no_worker_is_removed_to_which_something_is_promised,
    a_machine_that_the_fleet_did_not_launch_is_not_removed,
    nobody_calls_off_the_drain_of_another,
    what_happened_meanwhile_leaves_out_one_command_and_no_other,
    a_worker_of_a_machine_that_was_given_up_is_gone_from_the_first,
    a_launch_whose_worker_has_reported_is_not_given_up,
    of_a_first_heartbeat_and_an_end_one_heeds_the_other,
    a_machine_whose_name_came_late_ends_only_if_its_worker_is_empty,
    a_machine_that_no_launch_owns_gets_one_that_ends_it,
    a_machine_that_comes_back_is_its_launchs_again,
    of_launches_that_are_over_the_newest_are_told,
)
