"""Pressure on fleets of every kind: nobody leaves without need, nobody is oversold, and it comes to rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as some

from sandfleet.model.ids import WorkerId
from sandfleet.model.sandbox import SandboxState
from sandfleet.model.worker import Worker
from sandfleet.planning.placement import PlacementPolicy, limits_of
from sandfleet.planning.pressure import Guest, PressurePlan, PressurePolicy, plan_pressure
from sandfleet.planning.pressure_ground import PressureMemory, Shortage, load_of, pressed, short_since
from sandfleet.testing.builders import NOON, a_sandbox, a_worker, resources

HOST_MIB, BUDGET_MIB = 20_000, 16_384
ROUNDS, ROUND_S = 60, 20.0


@dataclass(frozen=True)
class Fleet:
    """Hosts with what else they use, and guests with what each uses, which does not change."""

    workers: tuple[Worker, ...]
    guests: tuple[Guest, ...]

    def on(self, worker_id: str) -> Sequence[Guest]:
        return [one for one in self.guests if one.sandbox.worker_id == worker_id]

    def seen(self) -> Sequence[Worker]:
        """Return the workers as their heartbeats and promises say now."""
        return [self._seen(worker) for worker in self.workers]

    def _seen(self, worker: Worker) -> Worker:
        here = self.on(worker.id)
        used = {one: sum(guest.uses.get(one, 0.0) for guest in here) for one in Shortage}
        return replace(
            worker,
            memory_used_mib=worker.memory_used_mib + int(used[Shortage.MEMORY]),
            disk_used_mib=worker.disk_used_mib + int(used[Shortage.DISK]),
            cpu_percent=min(100.0, used[Shortage.CPU] / 8 * 100),
            committed=resources(sum(one.sandbox.resources.memory_mib for one in here)),
        )

    def after(self, plan: PressurePlan) -> Fleet:
        """Return it as it is when all that was planned has been done."""
        where = {shed.sandbox.id: shed.target for shed in plan.sheds}
        guests = []
        for guest in self.guests:
            if guest.sandbox.id not in where:
                guests.append(guest)
            elif (target := where[guest.sandbox.id]) is not None:
                guests.append(replace(guest, sandbox=replace(guest.sandbox, worker_id=target)))
        return replace(self, guests=tuple(guests))


@some.composite
def fleets(draw: some.DrawFn) -> Fleet:
    count = draw(some.integers(1, 5))
    workers = [
        a_worker(
            f"wk-{number}",
            total=resources(BUDGET_MIB, cpu_count=10_000, disk_mib=10**9),
            memory_used_mib=draw(some.integers(0, HOST_MIB)),
            host_memory_mib=draw(some.sampled_from([HOST_MIB, HOST_MIB, HOST_MIB, 0])),
            host_cpus=8,
            host_disk_mib=100_000,
            disk_used_mib=draw(some.integers(0, 99_000)),
        )
        for number in range(count)
    ]
    guests = []
    for worker in workers:
        promised = 0
        for _ in range(draw(some.integers(0, 6))):
            memory_mib = draw(some.sampled_from([512, 1024, 4096]))
            promised += memory_mib
            if promised > BUDGET_MIB:
                break
            uses = {
                Shortage.MEMORY: float(draw(some.integers(0, memory_mib))),
                Shortage.DISK: float(draw(some.integers(0, 4000))),
                Shortage.CPU: draw(some.sampled_from([0.0, 0.5, 2.0])),
            }
            sandbox = a_sandbox(
                f"sb-{len(guests)}",
                state=SandboxState.RUNNING,
                worker_id=worker.id,
                resources=resources(memory_mib),
            )
            guests.append(Guest(sandbox, uses=uses, is_active=draw(some.booleans())))
    return Fleet(tuple(workers), tuple(guests))


policies = some.builds(
    PressurePolicy,
    placement=some.just(PlacementPolicy()),
    at_once=some.integers(1, 4),
    at_once_in_all=some.integers(1, 8),
    no_saves=some.sampled_from(["", "no store"]),
)


def one_round(fleet: Fleet, policy: PressurePolicy, memory: PressureMemory, number: int) -> PressurePlan:
    now, workers = NOON + timedelta(seconds=number * ROUND_S), fleet.seen()
    since = short_since(workers, policy.marks, memory.since, now=now)
    memory = replace(memory, since=since)
    hosts = pressed(workers, policy.marks, since, now=now)
    guests = {host.worker.id: fleet.on(host.worker.id) for host in hosts}
    return plan_pressure(hosts, guests, workers, policy, memory, now=now)


def share(worker: Worker, shortage: Shortage) -> float:
    load = load_of(worker, shortage)
    return 0.0 if load is None else load.share


@settings(max_examples=150, deadline=None)
@given(fleets(), policies)
def test_each_that_leaves_is_needed_and_none_is_oversold(fleet: Fleet, policy: PressurePolicy) -> None:
    memory = PressureMemory()
    for number in range(12):
        plan = one_round(fleet, policy, memory, number)
        memory = plan.memory
        before = {worker.id: worker for worker in fleet.seen()}
        leaving: dict[str, list[Guest]] = {}
        for shed in plan.sheds:
            home = before[WorkerId(str(shed.sandbox.worker_id))]
            here = leaving.setdefault(home.id, [])
            assert any(
                _is_missing(home, one, here, policy) for one in Shortage if (home.id, one) in memory.since
            )
            here.append(next(one for one in fleet.guests if one.sandbox.id == shed.sandbox.id))
        assert all(len(some_) <= policy.at_once for some_ in leaving.values())
        assert len(plan.sheds) <= policy.at_once_in_all
        fleet = fleet.after(plan)
        targets = {shed.target for shed in plan.sheds} - {None}
        for worker in fleet.seen():
            if worker.id in targets:
                assert worker.committed.memory_mib <= limits_of(worker, policy.placement).memory_mib
                for shortage, mark in policy.marks.items():
                    assert share(worker, shortage) <= mark.low + 0.001


def _is_missing(worker: Worker, shortage: Shortage, gone: Sequence[Guest], policy: PressurePolicy) -> bool:
    load = load_of(worker, shortage)
    freed = sum(one.uses.get(shortage, 0.0) for one in gone)
    return load is not None and load.used - freed > policy.marks[shortage].low * load.total


@settings(max_examples=60, deadline=None)
@given(fleets(), policies)
def test_under_constant_load_it_comes_to_rest_and_stays_there(fleet: Fleet, policy: PressurePolicy) -> None:
    """Nobody leaves twice: who took one stays below the low marks. In the end nothing happens."""
    memory, times = PressureMemory(), Counter[str]()
    for number in range(ROUNDS):
        plan = one_round(fleet, policy, memory, number)
        memory, fleet = plan.memory, fleet.after(plan)
        times.update(shed.sandbox.id for shed in plan.sheds)
    assert all(count == 1 for count in times.values())
    for number in range(ROUNDS, ROUNDS + 12):
        plan = one_round(fleet, policy, memory, number)
        memory = plan.memory
        assert plan.sheds == ()


@settings(max_examples=60, deadline=None)
@given(fleets(), policies)
def test_equal_fleets_give_equal_plans_in_any_order(fleet: Fleet, policy: PressurePolicy) -> None:
    shuffled = replace(fleet, workers=fleet.workers[::-1], guests=fleet.guests[::-1])
    memory = PressureMemory(
        {(one.id, kind): NOON - timedelta(hours=1) for one in fleet.workers for kind in Shortage}
    )
    plans = [one_round(one, policy, memory, 0) for one in (fleet, shuffled)]
    assert {(one.sandbox.id, one.target) for one in plans[0].sheds} == {
        (one.sandbox.id, one.target) for one in plans[1].sheds
    }
