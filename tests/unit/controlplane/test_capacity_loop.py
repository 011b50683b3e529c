"""Load rises and machines come, it falls and they go: planned, written down, carried out on a fake pool."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

from tests.unit.controlplane.town import Town
from tests.waiting import WITHIN_S

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.loops.leadership import Leadership
from sandfleet.controlplane.loops.runner import Loop, LoopRunner
from sandfleet.model.drain import DrainOwner
from sandfleet.model.errors import StaleTerm
from sandfleet.model.ids import SandboxId
from sandfleet.model.launch import LaunchFailure, LaunchState
from sandfleet.testing.conformance.checking import refusing
from sandfleet.testing.memory.coordination import MemoryRedis, MemoryWakeUps
from sandfleet.testing.memory.link import DirectLink
from sandfleet.wire.worker_messages import VmStatus


async def rise_and_fall(town: Town) -> None:
    """Twenty sandboxes come, sixteen of them go, and most of an hour passes."""
    await town.ask(20)
    await town.live(20)
    assert len(town.database.reservations) == 20
    assert len(town.workers) == 4  # twenty GiB on three of eight, and one in reserve
    town.end(16)
    await town.live(160)


async def test_machines_come_with_the_load_and_go_with_it() -> None:
    town = Town()
    await rise_and_fall(town)
    assert len(town.workers) == 2
    assert len(await town.machines()) == 2
    assert len(town.database.reservations) == 4
    launches = await town.stores.fleet.launches()
    assert len(launches) == 4
    assert sum(one.gone_at is not None for one in launches) == 2
    assert town.said[-1].startswith("hold: 2 workers, 2 wanted (1 occupied")


async def test_a_load_that_stays_changes_nothing_more() -> None:
    town = Town()
    await town.ask(20)
    await town.live(20)
    before = await town.stores.fleet.launches()
    await town.live(100)
    assert await town.stores.fleet.launches() == before
    assert town.database.drains == {}


async def test_the_fleet_is_the_same_in_the_end_if_now_and_then_a_call_fails() -> None:
    """Before or after the work is done; each time another leader goes on."""
    for every in (31, 43, 61):
        for is_after in (False, True):
            town = Town()
            town.link.every, town.link.is_after = every, is_after
            await rise_and_fall(town)
            assert len(town.workers) == 2, (every, is_after)
            await town.live(10)
            assert len(await town.machines()) == 2, (every, is_after)


async def test_who_begins_to_wait_makes_a_round_due_once() -> None:
    town = Town()
    assert not await town.capacity.is_due()
    await town.ask(1)
    assert await town.capacity.is_due()
    await town.capacity.tick(term=town.database.term)
    assert not await town.capacity.is_due()
    await town.ask(1)
    assert await town.capacity.is_due()


async def test_a_hint_that_is_true_ends_a_leaders_pause_and_one_that_is_not_does_not() -> None:
    redis = MemoryRedis(lambda: 0.0)
    wake_ups = MemoryWakeUps(redis, DirectLink(), name="one")
    ticks, asked, is_due = asyncio.Queue[int](), asyncio.Queue[None](), False

    async def tick(term: int) -> str:
        await ticks.put(term)
        return "done"

    async def due() -> bool:
        await asked.put(None)
        return is_due

    runner = LoopRunner(
        cast(ControlPlane, SimpleNamespace(wake_ups=wake_ups)),
        cast(Leadership, SimpleNamespace(term=3)),
        (Loop("planned", 3600, tick, topic="queue", is_due=due),),
    )
    async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(runner.run())
        assert await ticks.get() == 3
        await wake_ups.publish("queue")
        await asked.get()
        assert ticks.empty()
        is_due = True
        await wake_ups.publish("queue")
        assert await ticks.get() == 3
        running.cancel()


async def test_nothing_is_removed_while_its_worker_does_not_say_that_it_is_empty() -> None:
    """Neither when it says otherwise than the rows, nor when it says nothing."""
    town = Town()
    await town.ask(20)
    await town.live(20)
    for worker_id in town.workers:
        town.client.host(worker_id).vms[SandboxId("sb-x")] = VmStatus(
            sandbox_id="sb-x", epoch=1, state="running"
        )
    town.end(20)
    await town.live(160)
    assert town.database.drains
    assert len(town.workers) == 4
    for worker_id in town.workers:
        town.client.host(worker_id).vms.clear()
    await town.live(160)
    assert len(town.workers) == 1


async def test_a_drain_that_an_operator_began_is_never_ended_by_the_loop() -> None:
    town = Town()
    await town.ask(4)
    await town.live(20)
    drained = town.workers[0]
    await town.stores.drains.begin(drained, actor="somebody")
    await town.live(160)
    drain = await town.stores.drains.get(drained)
    assert drain is not None
    assert drain.owner is DrainOwner.OPERATOR
    assert drained in town.workers


async def test_a_size_that_is_refused_is_left_alone_for_longer_each_time() -> None:
    town = Town()
    town.pool.refusals.extend([LaunchFailure.STOCKOUT] * 40)
    await town.ask(1)
    await town.live(40)
    asked = 40 - len(town.pool.refusals)
    assert 1 <= asked < 20
    assert "no size of machine may be had now" in town.said[-1]
    town.pool.refusals.clear()
    await town.live(200)
    assert len(town.workers) == 2
    failed = [one for one in await town.stores.fleet.launches() if one.state is LaunchState.FAILED]
    assert {one.failure for one in failed} == {LaunchFailure.STOCKOUT}


async def test_an_old_leader_plans_and_writes_nothing() -> None:
    town = Town()
    await town.ask(1)
    await town.stores.terms.raise_term("another")
    with refusing(StaleTerm):
        await town.capacity.tick(term=1)
    assert await town.stores.fleet.launches() == []


async def test_without_a_policy_the_fleet_is_as_it_is() -> None:
    town = Town()
    object.__setattr__(town.capacity.plane, "capacity", None)
    assert await town.capacity.tick(term=1) == "the fleet has the workers that it is given"
