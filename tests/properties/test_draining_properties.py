"""Drains on fleets of every kind: nobody is oversold, who drains takes nothing, and it comes to an end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as some

from sandfleet.model.ids import WorkerId
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.worker import Worker
from sandfleet.planning.draining import DrainPlan, DrainPolicy, Resident, drain_plan
from sandfleet.planning.placement import FleetView, PlacementPolicy, limits_of
from sandfleet.testing.builders import NOON, a_sandbox, a_worker, resources

HOME = WorkerId("wk-home")
MARGIN = timedelta(seconds=100)
ROUNDS = 60


@dataclass(frozen=True)
class Fleet:
    """A worker that is drained, with who lives there, and others, of which some take nothing."""

    others: tuple[Worker, ...]
    residents: tuple[Sandbox, ...]
    elsewhere: tuple[Sandbox, ...] = ()

    def view(self) -> FleetView:
        """Return the workers with what is promised on each."""
        promised: Counter[str] = Counter()
        for one in (*self.residents, *self.elsewhere):
            promised[str(one.worker_id)] += one.resources.memory_mib
        home = a_worker(HOME, draining=True, total=resources(65536, cpu_count=10**4, disk_mib=10**9))
        return FleetView(
            [
                replace(one, committed=replace(one.committed, memory_mib=_held(one) + promised[one.id]))
                for one in (home, *self.others)
            ]
        )

    def plan(self, policy: DrainPolicy, *, now: datetime) -> DrainPlan:
        view = self.view()
        residents = [Resident(one) for one in self.residents]
        return drain_plan(view.workers[0], residents, view, policy, now=now, incoming={})

    def after(self, plan: DrainPlan, *, moves: int | None = None) -> Fleet:
        """Return it when so many of the moves, and all the saves, have been done."""
        done = plan.moves[:moves]
        gone = {one.sandbox.id for one in (*done, *plan.saves)}
        return replace(
            self,
            residents=tuple(one for one in self.residents if one.id not in gone),
            elsewhere=(*self.elsewhere, *(replace(one.sandbox, worker_id=one.target) for one in done)),
        )


def _held(worker: Worker) -> int:
    return worker.committed.memory_mib


@some.composite
def fleets(draw: some.DrawFn) -> Fleet:
    others = [
        a_worker(
            f"wk-{number}",
            total=resources(memory_mib, cpu_count=10**4, disk_mib=10**9),
            committed=resources(draw(some.integers(0, memory_mib))),
            draining=draw(some.sampled_from([False, False, True])),
            cordoned=draw(some.sampled_from([False, False, True])),
            worker_version=draw(some.sampled_from(["1", "2"])),
        )
        for number, memory_mib in enumerate(draw(some.lists(some.sampled_from([2048, 8192]), max_size=4)))
    ]
    sizes = draw(some.lists(some.sampled_from([512, 1024, 4096]), max_size=8))
    residents = [
        a_sandbox(f"sb-{at}", state=SandboxState.RUNNING, worker_id=HOME, resources=resources(size))
        for at, size in enumerate(sizes)
    ]
    return Fleet(tuple(others), tuple(residents))


policies = some.builds(
    DrainPolicy,
    moves_at_once=some.integers(1, 4),
    placement=some.just(PlacementPolicy()),
    deadline_at=some.just(NOON + MARGIN),
    saves_from=some.sampled_from([None, NOON, NOON + MARGIN / 2]),
    worker_version=some.sampled_from([None, "1", "2"]),
)


def oversold(view: FleetView) -> Sequence[WorkerId]:
    return [
        one.id
        for one in view.workers
        if one.committed.memory_mib > limits_of(one, PlacementPolicy()).memory_mib
    ]


@settings(max_examples=150)
@given(fleets(), policies, some.integers(0, 4))
def test_each_beginning_of_a_plan_is_legal(fleet: Fleet, policy: DrainPolicy, moves: int) -> None:
    plan = fleet.plan(policy, now=NOON)
    workers = {one.id: one for one in fleet.others}
    assert set(oversold(fleet.after(plan, moves=moves).view())) <= set(oversold(fleet.view()))
    for move in plan.moves:
        target = workers[move.target]  # another than the one that is drained
        assert not target.draining
        assert not target.cordoned
        assert policy.worker_version in (None, target.worker_version)
    arriving = Counter(one.target for one in plan.moves)
    assert max(arriving.values(), default=0) <= policy.moves_at_once
    assert len(plan.moves) <= policy.moves_at_once


@settings(max_examples=150)
@given(fleets(), policies)
def test_everybody_leaves_once_or_is_told_why_he_stays(fleet: Fleet, policy: DrainPolicy) -> None:
    plan = fleet.plan(policy, now=NOON)
    leaving = [one.sandbox.id for one in (*plan.moves, *plan.saves)]
    assert sorted([*leaving, *(one.sandbox_id for one in plan.stays)]) == sorted(
        one.id for one in fleet.residents
    )
    assert all(one.said for one in plan.stays)
    may_sleep = policy.saves_from is not None and policy.saves_from <= NOON
    assert may_sleep or not plan.saves


@settings(max_examples=100)
@given(fleets(), policies)
def test_it_comes_to_rest_and_doing_nothing_is_stable(fleet: Fleet, policy: DrainPolicy) -> None:
    for _ in range(ROUNDS):
        plan = fleet.plan(policy, now=NOON + MARGIN / 2)
        if not plan.moves and not plan.saves:
            break
        fleet = fleet.after(plan)
    assert not plan.moves
    assert not plan.saves
    assert fleet.plan(policy, now=NOON + MARGIN / 2) == plan
    # What may be put to sleep is: then nobody is left who keeps the worker from its end.
    assert policy.saves_from is None or not fleet.residents
