"""Workers whose hosts are about to be taken away are drained until then, and kept if that was called off."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import cast

import pytest

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.loops.notices import SEEN_WITHIN, NoticeLoop
from sandfleet.model.drain import Drain, DrainOwner, DrainTerms
from sandfleet.model.errors import PoolUnreachable
from sandfleet.model.ids import WorkerId
from sandfleet.model.launch import LaunchId
from sandfleet.model.machine import Machine, MachineState
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.fleet import DrainWorker, KeepWorker, LaunchMachine
from sandfleet.planning.notices import LastResort, NoticeView, last_resort, plan_notices
from sandfleet.ports.fleet_store import FleetDecision
from sandfleet.ports.machine_pool import MachinePool
from sandfleet.testing.builders import NOON, a_worker
from sandfleet.testing.clock import JumpingClock
from sandfleet.testing.memory.database import MemoryDatabase
from sandfleet.testing.memory.wiring import memory_stores

ONE = WorkerId("wk-one")
SOON = NOON + timedelta(seconds=120)
SAID = a_worker(ends_at=SOON, ends_because="spot")
DRAINED = DrainWorker(ONE, DrainOwner.NOTICE, "its host ends at 2030-01-01 12:02:00: spot", deadline_s=110)


def a_machine(ends_at: datetime | None = None, **names: str | None) -> Machine:
    launch = names.get("launch")
    return Machine(
        id=names.get("id") or "machine-1",
        launch_id=LaunchId(launch) if launch else None,
        size="small",
        state=MachineState.RUNNING,
        launched_at=NOON,
        ends_at=ends_at,
    )


def a_drain(owner: DrainOwner) -> dict[WorkerId, Drain]:
    return {ONE: Drain(ONE, owner.value, NOON, owner=owner)}


def test_who_says_so_itself_is_drained_until_a_little_before() -> None:
    assert plan_notices(NoticeView([SAID], {}), now=NOON) == [DRAINED]
    over = plan_notices(NoticeView([SAID], {}), now=SOON + timedelta(seconds=1))
    assert over == [replace(DRAINED, deadline_s=0)]


@pytest.mark.parametrize("machine", [a_machine(SOON), a_machine(SOON, id="i-1", launch="machine-1")])
def test_so_is_whose_pool_says_so_by_either_name_and_the_earlier_counts(machine: Machine) -> None:
    (command,) = plan_notices(NoticeView([a_worker()], {}, [machine]), now=NOON)
    assert command.reason == "its host ends at 2030-01-01 12:02:00: its pool takes the machine away"
    later = replace(SAID, ends_at=SOON + timedelta(hours=1))
    assert plan_notices(NoticeView([later], {}, [machine]), now=NOON) == [command]


@pytest.mark.parametrize("owner", [DrainOwner.CAPACITY, DrainOwner.ROLLOUT, DrainOwner.OPERATOR])
def test_a_notice_goes_before_every_other_drain_and_is_begun_once(owner: DrainOwner) -> None:
    assert plan_notices(NoticeView([SAID], a_drain(owner)), now=NOON) == [DRAINED]
    assert DrainOwner.NOTICE.takes_over(owner)
    assert plan_notices(NoticeView([SAID], a_drain(DrainOwner.NOTICE)), now=NOON) == []


@pytest.mark.parametrize(
    ("worker", "unknown", "is_kept"),
    [
        (a_worker(), [], True),
        (a_worker(), [ONE], False),
        (a_worker(), ["wk-two"], True),
        (a_worker(state=WorkerState.SILENT), [], False),
    ],
)
def test_it_was_called_off_only_when_both_who_could_say_it_have_answered(
    worker: Worker, unknown: list[str], is_kept: bool
) -> None:
    view = NoticeView([worker], a_drain(DrainOwner.NOTICE), unknown=frozenset(map(WorkerId, unknown)))
    kept = KeepWorker(ONE, DrainOwner.NOTICE, "its host is not taken away, after all")
    assert plan_notices(view, now=NOON) == ([kept] if is_kept else [])


def test_what_is_gone_and_what_others_drain_is_left_alone() -> None:
    gone = replace(SAID, state=WorkerState.GONE)
    assert plan_notices(NoticeView([gone], {}), now=NOON) == []
    assert plan_notices(NoticeView([a_worker()], a_drain(DrainOwner.OPERATOR)), now=NOON) == []


@pytest.mark.parametrize(
    ("memory_mib", "left_s", "refuses_sleep", "resort"),
    [
        (4096, 110, False, LastResort.SLEEP),
        (12800, 105, False, LastResort.SLEEP),
        (12800, 104, False, LastResort.CHECKPOINT),
        (512, 8, False, LastResort.CHECKPOINT),
        (512, 110, True, LastResort.CHECKPOINT),
    ],
)
def test_who_cannot_be_asleep_in_time_or_refuses_to_has_a_checkpoint_taken(
    memory_mib: int, left_s: float, refuses_sleep: bool, resort: LastResort
) -> None:
    assert last_resort(memory_mib, left_s=left_s, refuses_sleep=refuses_sleep) is resort


@dataclass
class Pool:
    """Tells its machines, or does not answer."""

    name: str = "pool"
    machines: list[Machine] = field(default_factory=list)
    is_silent: bool = False

    async def list(self) -> list[Machine]:
        if self.is_silent:
            raise PoolUnreachable("no answer")
        return self.machines


class Looking:
    """A leader's loops over workers of two pools, one host each, and a host that nobody has launched."""

    def __init__(self) -> None:
        self.clock, self.pool, self.other = JumpingClock(now=NOON), Pool(), Pool("other")
        self.stores, self.term = memory_stores(MemoryDatabase(self.clock.now)), 0
        pools = {one.name: one for one in (self.pool, self.other)}
        plane = SimpleNamespace(stores=self.stores, pools=pools, clock=self.clock)
        self.loop = NoticeLoop(cast(ControlPlane, plane))

    async def begin(self) -> None:
        self.term = await self.stores.terms.raise_term("leader")
        launches = [
            LaunchMachine(LaunchId(f"launch-{name}"), f"{name}/s", "v", "") for name in ("pool", "other")
        ]
        await self.stores.fleet.record(FleetDecision(DrainOwner.CAPACITY, launches), term=self.term)
        for name, machine in (("wk-one", "launch-pool"), ("wk-other", "launch-other"), ("wk-own", "host")):
            await self.stores.workers.register(a_worker(name, machine_id=machine))

    async def tick(self, *, seconds: float = 0.0) -> str:
        await self.clock.advance(seconds)
        for pool in (self.pool, self.other):
            await self.loop.look(cast(MachinePool, pool))
        return await self.loop.tick(term=self.term)


@pytest.fixture
async def looking() -> Looking:
    looking = Looking()
    await looking.begin()
    return looking


async def test_the_leader_writes_the_drain_down_with_its_deadline_and_calls_it_off(looking: Looking) -> None:
    stores, pool = looking.stores, looking.pool
    await stores.drains.begin(ONE, actor="operator", terms=DrainTerms("tidy", 3600, hibernates=False))
    assert await looking.tick() == "no host is about to be taken away"
    pool.machines = [a_machine(SOON, launch="launch-pool")]
    assert (await looking.tick()).startswith("wk-one is drained: its host ends at")
    drain = await stores.drains.get(ONE)
    assert drain is not None
    assert (drain.owner, drain.hibernates) == (DrainOwner.NOTICE, True)
    assert drain.deadline_at == NOON + timedelta(seconds=110)
    assert await looking.tick() == "no host is about to be taken away"
    pool.machines, pool.is_silent = [], True
    assert await looking.tick(seconds=SEEN_WITHIN.total_seconds()) == "pool does not answer"
    assert await stores.drains.get(ONE) == drain
    pool.is_silent = False
    assert await looking.tick() == "wk-one is kept: its host is not taken away, after all"
    assert await stores.drains.get(ONE) is None
    assert not (await stores.workers.get(ONE)).draining


async def test_a_pool_that_is_silent_keeps_no_notice_of_another_from_being_called_off(
    looking: Looking,
) -> None:
    for name in ("wk-one", "wk-other", "wk-own"):
        notice = DrainWorker(WorkerId(name), DrainOwner.NOTICE, "spot")
        await looking.stores.fleet.record(FleetDecision(DrainOwner.NOTICE, [notice]), term=looking.term)
    looking.other.is_silent = True
    said = await looking.tick()
    # Whose host no launch names may have it from the pool that is silent.
    assert said == "wk-one is kept: its host is not taken away, after all; other does not answer"
    assert {one.worker_id for one in await looking.stores.drains.list()} == {"wk-other", "wk-own"}
