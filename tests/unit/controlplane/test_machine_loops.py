"""What was decided about machines is carried out, through every lost call and answer; orphans are found."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import pytest
from tests.unit.controlplane.machine_world import ORPHANS, World, launching, named

from sandfleet.controlplane.loops.machines import (
    CALLS_MAX,
    LOOK_EVERY,
    ROUND,
    SILENCES_MAX,
    UNANSWERED,
    UNSEEN,
    look_for_pools,
)
from sandfleet.controlplane.loops.orphans import REMOVALS_MAX
from sandfleet.model.drain import DrainOwner
from sandfleet.model.errors import PoolUnreachable, StaleTerm, StoreUnavailable
from sandfleet.model.ids import WorkerId
from sandfleet.model.launch import Launch, LaunchFailure, LaunchId, LaunchState
from sandfleet.model.machine import Machine, MachineOrder, MachinePart, MachineState, PartKind
from sandfleet.model.worker import WorkerState
from sandfleet.planning.fleet import AbandonLaunch, DrainWorker, RemoveWorker
from sandfleet.planning.orphans import find_orphan_parts, find_orphans
from sandfleet.testing.builders import NOON, an_organisation
from sandfleet.testing.conformance.placement_store import asked_for, place


async def test_a_launch_becomes_a_machine_and_its_worker_joins() -> None:
    world = World()
    assert await world.tick() == "fake: no machine is asked for"
    await world.decide(launching(1))
    assert await world.tick() == "fake: 1 begun"
    (machine,) = await world.machines()
    assert (machine.launch_id, machine.size) == (named(1), "small")
    assert (await world.launch()).machine_id == machine.id
    assert await world.tick(seconds=10) == "fake: 1 machines boot, 0 end"
    await world.clock.advance(30)
    await world.boot()
    assert await world.tick() == "fake: 1 joined"
    joined = await world.launch()
    assert (joined.state, joined.worker_id) == (LaunchState.JOINED, f"wk-{machine.id}")
    assert await world.tick() == "fake: no machine is asked for"


@pytest.mark.parametrize("failure", [LaunchFailure.QUOTA, LaunchFailure.STOCKOUT, LaunchFailure.THROTTLED])
async def test_a_refusal_ends_the_launch_by_its_name(failure: LaunchFailure) -> None:
    world = World()
    world.pool.refusals.append(failure)
    await world.decide(launching(1), launching(2))
    assert await world.tick() == f"fake: 1 begun, 1 refused ({failure})"
    refused = await world.launch()
    assert (refused.state, refused.failure, refused.said) == (
        LaunchState.FAILED,
        failure,
        f"none now: {failure}",
    )
    assert refused.gone_at is not None
    assert (await world.launch(2)).machine_id is not None


async def test_a_machine_that_was_given_up_ends_and_is_asked_after_until_it_is_gone() -> None:
    world = World()
    await world.decide(launching(1))
    await world.tick()
    await world.decide(AbandonLaunch(named(1), "late"))
    assert await world.tick() == "fake: 0 machines boot, 1 end"
    assert (await world.launch()).is_ending
    assert await world.tick(seconds=20) == "fake: 1 gone"
    assert await world.machines() == []
    assert await world.tick() == "fake: no machine is asked for"


async def test_a_launch_given_up_without_an_answer_is_looked_for_before_it_is_let_go() -> None:
    world = World()
    await world.decide(launching(1), launching(2))
    world.pool.answers_lost = 1
    assert await world.tick() == "fake: 1 begun; the answer was lost"
    assert (await world.launch()).machine_id is None
    await world.decide(AbandonLaunch(named(1), "late"))
    await world.tick(seconds=UNSEEN.total_seconds() - 1)
    assert (await world.launch()).machine_id is None
    await world.tick(seconds=1)
    assert (await world.launch()).machine_id == "m-0001"
    await world.tick(seconds=20)
    assert (await world.launch()).gone_at is not None
    assert [one.launch_id for one in await world.machines()] == [named(2)]


async def test_a_launch_of_which_nothing_comes_to_light_is_let_go() -> None:
    world = World()
    await world.decide(launching(1), AbandonLaunch(named(1), "late"))
    await world.tick(seconds=UNSEEN.total_seconds() - 1)
    assert (await world.launch()).is_ending
    assert await world.tick(seconds=1) == "fake: 1 gone"


async def test_a_machine_on_which_something_lives_is_not_ended() -> None:
    """Its worker came before anybody knew whose machine that is."""
    world = World()
    world.pool.answers_lost = 1
    await world.decide(launching(1))
    await world.tick()
    await world.decide(AbandonLaunch(named(1), "late"))
    await world.clock.advance(UNSEEN.total_seconds())
    await world.boot()
    await world.stores.organisations.create(an_organisation())
    operation, sandbox = await asked_for(world.stores, "sb-one")
    await place(world.stores, operation, sandbox)
    assert await world.tick() == "fake: 1 joined after all"
    found = await world.launch()
    assert (found.state, found.worker_id) == (LaunchState.JOINED, "wk-m-0001")
    (machine,) = await world.machines()
    assert machine.state is MachineState.RUNNING


async def test_a_pool_that_does_not_answer_is_asked_again() -> None:
    world = World()
    world.pool.is_unreachable = True
    await world.decide(*(launching(number) for number in range(9)))
    assert await world.tick() == "fake: 9 machines boot, 0 end; the pool does not answer"
    assert {one.state for one in await world.stores.fleet.launches()} == {LaunchState.PENDING}
    world.pool.is_unreachable = False
    await world.tick()
    assert len(await world.machines()) == 9


async def test_what_a_silent_pool_was_asked_for_is_given_up_and_ended_when_it_comes_to_light() -> None:
    world = World()
    await world.decide(*(launching(number) for number in range(SILENCES_MAX + 2)))
    world.pool.answers_lost = 99
    assert "failed" not in await world.tick(seconds=UNANSWERED.total_seconds() - 1)
    said = await world.tick(seconds=1)
    assert said == f"fake: {SILENCES_MAX + 2} failed (unreachable); the answer was lost"
    failed = await world.stores.fleet.launches()
    assert {one.failure for one in failed} == {LaunchFailure.UNREACHABLE}
    assert failed[0].said == "no answer for 90 s: the answer was lost"
    world.pool.answers_lost = 0
    await world.tick()
    assert len(await world.machines()) == SILENCES_MAX + 2, "they were begun, and nobody was told"
    await world.tick(seconds=UNSEEN.total_seconds())
    await world.tick(seconds=20)
    assert await world.machines() == []


async def test_who_waits_for_a_machine_that_was_begun_waits_on_while_its_pool_is_silent() -> None:
    world = World()
    await world.decide(launching(1))
    await world.tick()
    await world.decide(launching(2))
    world.pool.is_unreachable = True
    await world.tick(seconds=UNANSWERED.total_seconds())
    assert [(await world.launch(one)).state for one in (1, 2)] == [LaunchState.PENDING, LaunchState.FAILED]


async def test_everybody_has_a_turn_when_there_are_more_than_one_round_holds() -> None:
    world = World()
    count = CALLS_MAX + 7
    await world.decide(*(launching(number) for number in range(count)))
    await world.tick()
    assert len(await world.machines()) == CALLS_MAX
    await world.decide(*(AbandonLaunch(named(number), "late") for number in range(CALLS_MAX)))
    await world.tick()
    assert len({one.launch_id for one in await world.machines()}) == count


async def test_a_slow_pool_is_not_asked_for_longer_than_a_round_holds() -> None:
    world = World()
    launch = world.pool.launch

    async def slow(order: MachineOrder, *, term: int) -> Machine:
        await world.clock.advance(ROUND.total_seconds() / 2)
        return await launch(order, term=term)

    cast(Any, world.pool).launch = slow
    await world.decide(*(launching(number) for number in range(5)))
    await world.tick()
    assert len(await world.machines()) == 2
    await world.tick()
    assert len(await world.machines()) == 4


async def test_one_launch_that_never_gets_an_answer_does_not_hold_up_those_after_it() -> None:
    world = World()
    launch = world.pool.launch

    async def deaf(order: MachineOrder, *, term: int) -> Machine:
        if order.launch_id < named(SILENCES_MAX):
            raise PoolUnreachable("no answer")
        return await launch(order, term=term)

    cast(Any, world.pool).launch = deaf
    await world.decide(*(launching(number) for number in range(SILENCES_MAX + 2)))
    await world.tick()
    await world.tick()
    assert {one.launch_id for one in await world.machines()} == {named(SILENCES_MAX), named(SILENCES_MAX + 1)}


async def test_launches_of_a_pool_that_is_not_configured_wait_and_say_so() -> None:
    world = World()
    assert await look_for_pools(world.plane) == "every launch has its pool"
    await world.decide(launching(1, "lost/small"))
    assert await look_for_pools(world.plane) == "lost: there is no such pool here, 1 launches wait"
    assert await world.tick() == "fake: no machine is asked for"
    assert (await world.launch()).state is LaunchState.PENDING


async def test_an_old_leader_begins_and_ends_nothing() -> None:
    world = World()
    await world.decide(launching(1))
    await world.stores.terms.raise_term("another")
    await world.decide(launching(2))
    await world.tick()
    await world.decide(launching(3), AbandonLaunch(named(2), "late"))
    with pytest.raises(StaleTerm):
        await world.loop.tick(term=1)
    assert [one.state for one in await world.machines()] == [MachineState.STARTING] * 2


async def run_story(world: World) -> None:
    """One machine joins, one is given up, one joins and is removed; what breaks is tried again."""

    async def tick(seconds: float) -> None:
        await world.clock.advance(seconds)
        try:
            await world.loop.tick(term=world.database.term)
        except StoreUnavailable:
            # What crashes has a successor in a newer term, which remembers nothing.
            world.elect()
            await world.stores.terms.raise_term("next")
        machines = await world.machines()
        assert len({one.launch_id for one in machines}) == len(machines)

    await world.decide(launching(1), launching(2), launching(3))
    await tick(0)
    await world.decide(AbandonLaunch(named(2), "late"))
    for _ in range(8):
        await tick(10)
        await world.boot()
    worker = WorkerId(f"wk-{(await world.launch(3)).machine_id}")
    await world.decide(DrainWorker(worker, DrainOwner.CAPACITY, "spare"), RemoveWorker(worker, "it is empty"))
    for _ in range(5):
        await tick(UNSEEN.total_seconds() / 4)


@pytest.mark.parametrize("is_after", [False, True], ids=["the call is lost", "the answer is lost"])
async def test_the_end_is_the_same_whatever_call_to_the_store_breaks(is_after: bool) -> None:
    whole = World()
    await run_story(whole)
    total = whole.link.calls
    assert total > 20
    for number in range(1, total + 1):
        world = World()
        world.link.breaks_at, world.link.is_after = number, is_after
        await run_story(world)
        await check_the_end_of_the_story(world, number)


async def test_the_end_is_the_same_whatever_answer_of_the_pool_is_lost() -> None:
    for number in range(1, 12):
        world = World()
        answer, calls = world.pool._answer, 0

        def losing(number: int = number, answer: Callable[[], None] = answer) -> None:
            nonlocal calls
            calls += 1
            if calls == number:
                raise PoolUnreachable("the answer was lost")
            answer()

        cast(Any, world.pool)._answer = losing
        await run_story(world)
        await check_the_end_of_the_story(world, number)


async def check_the_end_of_the_story(world: World, number: int) -> None:
    first, second, third = [await world.launch(one) for one in (1, 2, 3)]
    assert (first.state, first.gone_at) == (LaunchState.JOINED, None), number
    assert second.state is LaunchState.FAILED, number
    assert third.state is LaunchState.JOINED, number
    assert None not in (second.gone_at, third.gone_at), number
    assert [one.launch_id for one in await world.machines()] == [named(1)], number
    there = [one for one in await world.stores.workers.list() if one.state is not WorkerState.GONE]
    assert [one.machine_id for one in there] == [first.machine_id], number


async def look_for_orphans(world: World, *, seconds: float = 0.0) -> str:
    await world.clock.advance(seconds)
    return await world.orphans.tick(term=world.database.term)


async def test_an_orphan_is_reported_first_and_ended_after_its_grace() -> None:
    world = World()
    await world.decide(launching(1))
    await world.tick()
    stray = await world.pool.launch(MachineOrder(LaunchId("by-hand"), "small", "v1"), term=1)
    world.pool.lose_tag(stray.id)
    assert (
        await look_for_orphans(world, seconds=ORPHANS.age_s_min - 1) == "fake: every machine has its launch"
    )
    assert await look_for_orphans(world, seconds=1) == f"fake: no launch owns {stray.id}"
    assert await look_for_orphans(world, seconds=ORPHANS.reported_s_min - 1) == (
        f"fake: no launch owns {stray.id}"
    )
    await world.tick()
    assert {one.state for one in await world.machines()} == {MachineState.RUNNING}
    assert await look_for_orphans(world, seconds=1) == f"fake: no launch owns {stray.id}, 1 of them to end"
    await world.tick()
    assert await look_for_orphans(world) == "fake: every machine has its launch"
    await world.tick(seconds=20)
    assert [one.launch_id for one in await world.machines()] == [named(1)]


async def test_an_orphan_on_which_something_lives_is_kept() -> None:
    world = World()
    stray = await world.pool.launch(MachineOrder(LaunchId("by-hand"), "small", "v1"), term=1)
    await world.clock.advance(ORPHANS.age_s_min)
    await world.boot()
    await world.stores.organisations.create(an_organisation())
    operation, sandbox = await asked_for(world.stores, "sb-one")
    await place(world.stores, operation, sandbox)
    await look_for_orphans(world)
    await look_for_orphans(world, seconds=ORPHANS.reported_s_min)
    assert await world.tick() == "fake: 1 joined after all"
    (kept,) = await world.stores.fleet.launches()
    assert (kept.id, kept.worker_id) == (f"orphan-{stray.id}", f"wk-{stray.id}")
    assert await look_for_orphans(world, seconds=9000) == "fake: every machine has its launch"


async def test_a_new_leader_reports_anew_before_it_ends_anything() -> None:
    world = World()
    await world.pool.launch(MachineOrder(LaunchId("by-hand"), "small", "v1"), term=1)
    await look_for_orphans(world, seconds=ORPHANS.age_s_min)
    await world.stores.terms.raise_term("another")
    said = await look_for_orphans(world, seconds=ORPHANS.reported_s_min)
    assert said == "fake: no launch owns m-0001"
    assert await world.stores.fleet.launches() == []


async def test_where_no_answer_comes_nothing_is_an_orphan() -> None:
    world = World()
    await world.pool.launch(MachineOrder(LaunchId("by-hand"), "small", "v1"), term=1)
    world.pool.is_unreachable = True
    assert await look_for_orphans(world, seconds=9000) == "fake: the pool does not answer"


def test_who_was_owned_in_between_is_reported_anew() -> None:
    machine = Machine("m-1", named(1), "small", MachineState.RUNNING, NOON - timedelta(days=1))
    owner = Launch(named(1), "fake/small", "v1", NOON)
    first = find_orphans([machine], [], {}, ORPHANS, now=NOON)
    assert first.seen == {"m-1": NOON}
    owned = find_orphans([machine], [owner], first.seen, ORPHANS, now=NOON + timedelta(seconds=300))
    assert owned.seen == {}
    later = NOON + timedelta(seconds=700)
    again = find_orphans([machine], [], owned.seen, ORPHANS, now=later)
    assert (again.seen, list(again.ending)) == ({"m-1": later}, [])


@pytest.mark.parametrize("failure", [LaunchFailure.STOCKOUT, LaunchFailure.QUOTA])
async def test_a_machine_that_was_begun_and_came_to_nothing_fails_its_launch_by_its_name(
    failure: LaunchFailure,
) -> None:
    world = World()
    await world.decide(launching(1), launching(2))
    await world.tick()
    world.pool.fail_machine("m-0001", failure)
    said = await world.tick(seconds=LOOK_EVERY.total_seconds())
    assert said == f"fake: 1 failed ({failure})"
    failed = await world.launch()
    assert (failed.state, failed.failure) == (LaunchState.FAILED, failure)
    assert failed.said == "it was begun, and then there was none"
    assert (await world.launch(2)).state is LaunchState.PENDING
    await world.tick(seconds=1)
    await world.tick(seconds=20)
    assert (await world.launch()).gone_at is not None


async def test_machines_that_boot_are_not_looked_at_in_every_round() -> None:
    world = World()
    looks = 0
    listed = world.pool.list

    async def counting() -> Any:
        nonlocal looks
        looks += 1
        return await listed()

    cast(Any, world.pool).list = counting
    await world.decide(launching(1))
    for _ in range(2 * int(LOOK_EVERY.total_seconds())):
        await world.tick(seconds=1)
    assert looks == 2


async def test_a_part_of_no_launch_is_reported_first_and_removed_after_its_grace() -> None:
    world = World()
    await world.decide(launching(1))
    old = world.clock.now() - timedelta(seconds=ORPHANS.age_s_min)
    world.pool.leave_part(PartKind.DISK, launch_id=named(1), made_at=old)
    for kind, made_at in ((PartKind.DISK, old), (PartKind.DISK, world.clock.now()), (PartKind.ADDRESS, None)):
        world.pool.leave_part(kind, launch_id=LaunchId("long-gone"), made_at=made_at)
    seen = "fake: no launch owns address p-0004, disk p-0002"
    assert await look_for_orphans(world) == seen
    said = await look_for_orphans(world, seconds=ORPHANS.reported_s_min)
    assert said == f"{seen}, 1 of them to be removed"
    said = await look_for_orphans(world, seconds=ORPHANS.age_s_min)
    assert said == "fake: no launch owns address p-0004, disk p-0003, 1 of them to be removed"
    await look_for_orphans(world, seconds=ORPHANS.reported_s_min)
    # What a launch that stands may have left belongs to it still.
    assert [part.id for part in await world.pool.parts()] == ["p-0001"]


async def test_a_new_leader_reports_parts_anew_and_one_round_removes_so_many() -> None:
    world = World()
    for _ in range(REMOVALS_MAX + 3):
        world.pool.leave_part(PartKind.DISK, launch_id=None, made_at=NOON - timedelta(days=1))
    await look_for_orphans(world)
    await world.stores.terms.raise_term("another")
    await look_for_orphans(world, seconds=ORPHANS.reported_s_min)
    assert len(await world.pool.parts()) == REMOVALS_MAX + 3
    await look_for_orphans(world, seconds=ORPHANS.reported_s_min)
    assert len(await world.pool.parts()) == 3


def test_a_part_is_its_launchs_until_the_machine_is_gone_and_then_reported_anew() -> None:
    part = MachinePart(PartKind.NETWORK_CARD, "p-1", named(1))
    name = (PartKind.NETWORK_CARD, "p-1")
    owner = Launch(named(1), "fake/small", "v1", NOON)
    first = find_orphan_parts([part], [], {}, ORPHANS, now=NOON)
    assert first.seen == {name: NOON}
    owned = find_orphan_parts([part], [owner], first.seen, ORPHANS, now=NOON + timedelta(days=1))
    assert (owned.seen, list(owned.removing)) == ({}, [])
    later = NOON + timedelta(days=2)
    gone = Launch(named(1), "fake/small", "v1", NOON, gone_at=later)
    again = find_orphan_parts([part], [gone], owned.seen, ORPHANS, now=later)
    assert (again.seen, list(again.removing)) == ({name: later}, [])
