"""Stories of capacity: what a fleet is told to do, and the sentence that says why."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sandfleet.model.drain import DrainOwner
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.launch import Launch, LaunchFailure, LaunchId, LaunchState, MachineSize
from sandfleet.model.resources import NOTHING, Resources
from sandfleet.model.worker import WorkerState
from sandfleet.planning.capacity import SETTLING, CapacityPlan, plan_capacity
from sandfleet.planning.capacity_memory import CapacityMemory
from sandfleet.planning.capacity_policy import CapacityPolicy
from sandfleet.planning.demand import DemandHistory
from sandfleet.planning.fleet import (
    AbandonLaunch,
    CapacityView,
    DrainWorker,
    KeepWorker,
    LaunchMachine,
    Member,
    RemoveWorker,
    Resident,
    Surge,
)
from sandfleet.planning.placement import PlacementRequest
from sandfleet.testing.builders import NOON, a_worker

SMALL = MachineSize("pool", "small", Resources(8192, 8, 400_000), price_per_hour=1.0, boot_s=60)
LARGE = MachineSize("pool", "large", Resources(16384, 16, 800_000), price_per_hour=3.0, boot_s=90)
POLICY = CapacityPolicy(sizes=[SMALL, LARGE], workers_max=10, idle_reserve=0)
LONG_AGO = NOON - timedelta(hours=2)


def wanted(memory_mib: int = 2048) -> PlacementRequest:
    return PlacementRequest(Resources(memory_mib, 1, 20480), "base", "local")


def member(name: str, *residents: int, size: MachineSize = SMALL, **changes: Any) -> Member:
    lives = [Resident(SandboxId(f"sb-{name}-{at}"), wanted(one)) for at, one in enumerate(residents)]
    committed = sum((one.request.resources for one in lives), NOTHING)
    drained_by = changes.pop("drained_by", None)
    added_at = changes.pop("added_at", LONG_AGO)
    worker = a_worker(
        f"wk-{name}",
        **{
            "total": size.resources,
            "committed": committed,
            "draining": drained_by is not None,
            **changes,
        },
    )
    return Member(worker, size.key, added_at, lives, drained_by, is_proven_empty=not lives)


def pending(number: int = 1, *, size: MachineSize = SMALL, at: datetime = NOON) -> Launch:
    return Launch(LaunchId(f"launch-{number:08}"), size.key, "", at)


def plan(
    *members: Member, policy: CapacityPolicy = POLICY, memory: CapacityMemory | None = None, **view: Any
) -> CapacityPlan:
    seen = CapacityView(members=members, typical=wanted(), **view)
    return plan_capacity(seen, policy, memory or CapacityMemory(), now=NOON)


def launched(found: CapacityPlan) -> list[str]:
    return [one.size for one in found.commands if isinstance(one, LaunchMachine)]


def test_the_reserve_is_refilled_and_counted_once() -> None:
    policy = replace(POLICY, idle_reserve=2)
    assert launched(plan(member("a", 2048), policy=policy)) == ["pool/small", "pool/small"]
    assert launched(plan(member("a", 2048), policy=policy, launches=[pending()])) == ["pool/small"]
    rest = plan(member("a", 2048), member("b"), policy=policy, launches=[pending()])
    assert rest.commands == ()
    assert "3 workers, 3 wanted (1 occupied + 0 standing + 2 reserve" in rest.summary()


def test_what_waits_gets_machines_that_can_hold_it() -> None:
    found = plan(member("a", 8192), queue=[wanted(12288), wanted(4096), wanted(4096)])
    # Both that are small fit on the other half of no machine but one more small one.
    assert launched(found) == ["pool/large", "pool/small"]
    assert found.refused_sizes["pool/small"].startswith("can never hold it")


def test_what_no_machine_can_hold_is_counted_and_launches_nothing() -> None:
    found = plan(member("a"), queue=[wanted(65536)])
    assert launched(found) == []
    assert found.unplaced == 1


def test_a_free_worker_that_is_too_small_does_not_stand_in_for_a_larger_one() -> None:
    assert launched(plan(member("a", 2048), member("b"), queue=[wanted(12288)])) == ["pool/large"]


def test_the_fleet_keeps_within_its_bounds() -> None:
    most = replace(POLICY, workers_max=2)
    found = plan(member("a", 8192), member("b", 8192), policy=most, queue=[wanted()])
    assert launched(found) == []
    assert found.held == "2 machines, 2 at most"
    assert launched(plan(policy=replace(POLICY, workers_min=3))) == ["pool/small"] * 3
    once = replace(POLICY, workers_min=9, launches_at_once=4)
    assert len(launched(plan(policy=once, launches=[pending()]))) == 3


def test_a_pool_gets_no_more_than_its_budget_and_the_next_size_is_asked_for() -> None:
    policy = replace(POLICY, machines_max={"pool/small": 1})
    found = plan(member("a", 8192), policy=policy, queue=[wanted()])
    assert launched(found) == ["pool/large"]
    assert found.refused_sizes == {"pool/small": "pool/small has 1 machines, 1 at most"}


def failed(why: LaunchFailure, number: int = 1, *, size: MachineSize = SMALL) -> Launch:
    at = NOON - timedelta(seconds=5)
    return replace(pending(number, size=size, at=at), state=LaunchState.FAILED, ended_at=at, failure=why)


def test_a_size_that_is_out_of_stock_is_left_alone_longer_each_time() -> None:
    first = plan(queue=[wanted()], launches=[failed(LaunchFailure.STOCKOUT)])
    assert launched(first) == ["pool/large"]
    assert first.refused_sizes == {"pool/small": "pool/small failed 1 times (stockout): not before 115 s"}
    again = [failed(LaunchFailure.STOCKOUT, number) for number in (1, 2, 3)]
    second = plan(queue=[wanted()], launches=again, memory=first.memory)
    at_once = second.memory.backoffs["pool/small"]
    assert (at_once.failures, at_once.until) == (1, NOON + timedelta(seconds=115)), (
        "they were asked for at once"
    )
    later = [replace(one, ended_at=at_once.until) for one in again]
    third = plan(launches=later, memory=replace(second.memory, settled=()))
    doubled = third.memory.backoffs["pool/small"]
    assert (doubled.failures, doubled.until) == (2, at_once.until + timedelta(seconds=240))
    joined = replace(pending(4), state=LaunchState.JOINED, ended_at=NOON + timedelta(seconds=60))
    fourth = plan(launches=[*again, joined], memory=second.memory)
    assert fourth.memory.backoffs == {}
    assert fourth.memory.boot_s(SMALL) == 60.0


def test_a_pool_that_is_asked_too_often_is_left_alone_with_all_its_sizes() -> None:
    found = plan(queue=[wanted()], launches=[failed(LaunchFailure.THROTTLED, size=LARGE)])
    assert launched(found) == []
    assert set(found.refused_sizes) == {"pool/small", "pool/large"}


def test_the_worker_that_is_cheapest_to_empty_goes_and_the_others_are_told_why_not() -> None:
    found = plan(
        member("busy", 4096, 2048),
        member("light", 1024),
        member("young", added_at=NOON - timedelta(seconds=30)),
        member("full", 8192),
        member("held", cordoned=True),
        policy=replace(POLICY, drains_at_once=1),
    )
    assert found.commands == (
        DrainWorker(
            WorkerId("wk-light"),
            DrainOwner.CAPACITY,
            "its 1 sandboxes fit elsewhere; it saves 3.0 times the share that is disturbed",
            hibernates=False,
        ),
    )
    assert found.refused_workers == {
        "wk-busy": "others are drained first",
        "wk-full": "others are drained first",
        "wk-young": "is 30 s old, 600 s at least",
        "wk-held": "is cordoned",
    }
    assert found.memory.drained_at == NOON


def test_a_worker_is_not_emptied_into_the_reserve() -> None:
    policy = replace(POLICY, idle_reserve=1, worth_min=0)
    found = plan(member("a", 6144), member("b", 6144), member("c"), policy=policy)
    assert found.commands == ()
    assert found.refused_workers["wk-a"] == "without it 2 workers would hold something, 1 may"


def test_the_peak_of_the_last_while_must_still_fit() -> None:
    history = DemandHistory().with_sample(14000, now=NOON - timedelta(seconds=600))
    held = plan(member("a", 2048), member("b"), memory=CapacityMemory(demand=history))
    assert held.commands == ()
    old = DemandHistory().with_sample(14000, now=NOON - timedelta(seconds=1000))
    gone = plan(member("a", 2048), member("b"), memory=CapacityMemory(demand=old))
    assert [type(one) for one in gone.commands] == [DrainWorker]


def test_a_drain_is_called_off_before_a_machine_is_launched() -> None:
    leaving = member("b", 2048, drained_by=DrainOwner.CAPACITY)
    found = plan(member("a", 8192), leaving, queue=[wanted(4096)])
    assert [type(one) for one in found.commands] == [KeepWorker]
    assert found.memory.returned_at == {"wk-b": NOON}
    later = plan(member("a", 1024), member("b"), memory=found.memory)
    assert later.refused_workers["wk-b"] == "its last drain was called off a short while ago"


def test_a_new_leader_launches_for_who_waits_alone_and_drains_nobody() -> None:
    """Workers of which it has not heard yet may be about to report."""
    few = replace(POLICY, workers_min=3)
    settling = plan(policy=few, is_settling=True)
    assert (launched(settling), settling.held) == ([], SETTLING)
    assert launched(plan(policy=few, queue=[wanted()], is_settling=True)) == ["pool/small"]
    idle = [member("a", 2048), member("b"), member("c"), member("d")]
    assert plan(*idle).commands != ()
    found = plan(*idle, is_settling=True)
    assert (found.commands, found.held) == ((), SETTLING)


def test_drains_of_others_are_not_called_off_and_their_sandboxes_need_a_place() -> None:
    found = plan(member("a", 8192), member("b", 2048, drained_by=DrainOwner.OPERATOR))
    assert launched(found) == ["pool/small"]


def test_only_an_empty_worker_that_says_so_itself_is_removed() -> None:
    empty = member("b", drained_by=DrainOwner.CAPACITY)
    assert [type(one) for one in plan(member("a", 8192), empty).commands] == [RemoveWorker]
    for other in (
        replace(empty, is_proven_empty=False),
        member("b", 1024, drained_by=DrainOwner.CAPACITY),
        member("b", drained_by=DrainOwner.CAPACITY, state=WorkerState.SILENT),
        member("b", drained_by=DrainOwner.CAPACITY, committed=Resources(1024, 1, 1)),
        member("b", drained_by=DrainOwner.OPERATOR),
    ):
        assert not [one for one in plan(member("a", 4096), other).commands if isinstance(one, RemoveWorker)]


def test_when_many_are_unhealthy_only_what_waits_gets_machines() -> None:
    away = [member(name, state=WorkerState.UNREACHABLE) for name in "xyz"]
    empty = member("b", drained_by=DrainOwner.CAPACITY)
    policy = replace(POLICY, workers_min=6)
    found = plan(member("a"), empty, *away, launches=[pending(at=LONG_AGO)])
    assert found.commands == ()
    assert found.held == "frozen: 3 of 5 workers are unhealthy"
    assert launched(plan(member("a", 8192), *away, policy=policy, queue=[wanted()])) == ["pool/small"]


def test_a_silent_worker_is_not_replaced_at_once_an_unreachable_one_is() -> None:
    policy = replace(POLICY, workers_min=3)
    two = (member("a"), member("b"))
    assert plan(*two, member("c", state=WorkerState.SILENT), policy=policy).commands == ()
    assert len(launched(plan(*two, member("c", state=WorkerState.UNREACHABLE), policy=policy))) == 1


def test_a_launch_that_never_joins_is_given_up() -> None:
    found = plan(member("a", 1024), launches=[pending(at=NOON - timedelta(seconds=901))])
    assert [type(one) for one in found.commands] == [AbandonLaunch]


def test_a_surge_is_above_the_usual_number_and_of_its_own_version() -> None:
    surge = Surge(workers=1, version="2", is_under_way=True, above_max=1)
    found = plan(member("a", 8192, worker_version="1"), surge=surge, version="1", queue=[wanted()])
    assert [one.version for one in found.commands if isinstance(one, LaunchMachine)] == ["2", "1"]
    there = [member("a", 4096, worker_version="1"), member("new", worker_version="2")]
    rest = plan(*there, surge=surge, version="1")
    assert rest.commands == ()
    assert rest.held == "a roll-out is under way"


def test_demand_that_rises_is_met_before_it_is_there() -> None:
    history = DemandHistory()
    for number in range(20):
        at = NOON - timedelta(seconds=15 * (20 - number))
        history = history.with_sample(1000 + 300 * number, now=at)
    found = plan(member("a", 4096, 3072), memory=CapacityMemory(demand=history))
    assert launched(found) == ["pool/small"]
    still = plan(member("a", 4096, 3072), memory=CapacityMemory())
    assert still.commands == ()


def test_a_step_is_no_trend_and_what_comes_and_goes_is_not_foreseen_to_grow() -> None:
    step, waves = DemandHistory(), DemandHistory()
    for number in range(80):
        at = NOON - timedelta(seconds=15 * (80 - number))
        step = step.with_sample(9000 if number > 70 else 1000, now=at)
        waves = waves.with_sample(1000 + 100 * (number % 40), now=at)
    assert step.growth_mib(horizon_s=600, trend_s=300, now=NOON) == 0
    assert waves.growth_mib(horizon_s=600, trend_s=300, now=NOON) == 0


def test_while_anything_is_about_to_change_the_fleet_does_not_shrink() -> None:
    two = (member("a", 2048), member("b"))
    assert [type(one) for one in plan(*two).commands] == [DrainWorker]
    assert plan(*two, queue=[wanted(1024)]).held == "creates wait"
    assert plan(*two, launches=[pending()]).held == "1 machines still boot"
    moment = NOON - timedelta(seconds=100)
    for memory in (CapacityMemory(drained_at=moment), CapacityMemory(launched_at=moment)):
        assert plan(*two, memory=memory).held == "changed a short while ago"
    history = DemandHistory()
    for number in range(20):
        at = NOON - timedelta(seconds=15 * (20 - number))
        history = history.with_sample(600 * number, now=at)
    growing = (member("a", 12288, size=LARGE), member("b"))
    assert plan(*growing, memory=CapacityMemory(demand=history)).held == "demand grows"


def test_after_a_launch_only_what_waits_is_launched_for_at_once() -> None:
    just = CapacityMemory(launched_at=NOON - timedelta(seconds=5))
    policy = replace(POLICY, workers_min=2)
    held = plan(member("a", 8192), policy=policy, memory=just)
    assert (held.commands, held.held) == ((), "launched a moment ago")
    assert launched(plan(member("a", 8192), policy=policy, memory=just, queue=[wanted()])) == ["pool/small"]


def test_a_worker_on_which_something_is_being_placed_stays() -> None:
    coming = member("a", committed=Resources(1024, 1, 20480))
    found = plan(coming, member("b", 8192))
    assert found.refused_workers["wk-a"] == "something is being placed on it"


def test_a_surge_has_room_above_the_maximum_and_comes_though_enough_are_there() -> None:
    surge = Surge(workers=1, version="2", is_under_way=True, above_max=1)
    full = replace(POLICY, workers_max=2)
    old = [member(name, worker_version="1") for name in "ab"]
    found = plan(*old, policy=full, surge=surge, version="1")
    assert [one.version for one in found.commands if isinstance(one, LaunchMachine)] == ["2"]


def test_a_worker_that_takes_nothing_now_is_no_reserve() -> None:
    policy = replace(POLICY, idle_reserve=1)
    found = plan(member("a"), member("b"), member("c", state=WorkerState.SILENT), policy=policy)
    assert [one.worker_id for one in found.commands if isinstance(one, DrainWorker)] == ["wk-a"]
    assert found.needed.desired == 2


def test_what_is_proven_is_what_the_drain_will_do() -> None:
    policy = replace(POLICY, worth_min=0)
    # Heaviest first they would fit; a drain moves the lightest first, to the fullest that holds it.
    found = plan(member("a", 4096), member("b", 5120), member("c", 3072, 3072, 1024), policy=policy)
    assert found.commands == ()
    assert found.refused_workers["wk-c"] == "1 of its sandboxes find no place elsewhere"


def test_a_worker_on_trial_is_the_surge_and_not_one_that_stands_beside_it() -> None:
    """Also in the rounds before the roll-out has seen it: no machine is launched in its place."""
    surge = Surge(1, "2", is_under_way=True, above_max=1)
    old = member("a", 2048, worker_version="1")
    assert launched(plan(old, surge=surge, version="1")) == ["pool/small"]
    trial = member("new", worker_version="2", cordoned=True)
    tried = plan(old, trial, surge=surge, version="1")
    assert launched(tried) == []
    assert (tried.needed.standing, tried.needed.desired, tried.current) == (0, 2, 2)
    other = plan(old, member("b", worker_version="1", cordoned=True), surge=surge, version="1")
    assert other.needed.standing == 1


def test_a_drain_of_its_own_that_is_stuck_is_called_off_and_not_begun_anew() -> None:
    light = member("light", 1024, drained_by=DrainOwner.CAPACITY)
    busy = member("busy", 4096, 2048)
    assert plan(busy, light).commands == ()
    stuck = replace(light, is_stuck=True)
    found = plan(busy, stuck)
    reason = "it did not get empty by its deadline"
    assert found.commands == (KeepWorker(WorkerId("wk-light"), DrainOwner.CAPACITY, reason),)
    again = plan(busy, member("light", 1024), memory=found.memory)
    assert again.commands == ()
    assert again.refused_workers["wk-light"] == "its last drain was called off a short while ago"
    others = replace(stuck, drained_by=DrainOwner.OPERATOR)
    assert plan(busy, others).commands == ()
