"""The capacity planner over generated fleets and traces: what must hold for every one of them.

The virtual fleet performs the commands one by one and refuses, as BrokenPromise, what no fleet may
do: a place beyond a limit or on a draining worker, the end of a machine that holds something.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sandfleet.model.drain import DrainOwner
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.launch import Launch, LaunchFailure, LaunchId, LaunchState, MachineSize
from sandfleet.model.resources import NOTHING, Resources
from sandfleet.model.worker import WorkerState
from sandfleet.planning.capacity import CapacityPlan, plan_capacity
from sandfleet.planning.capacity_memory import CapacityMemory
from sandfleet.planning.capacity_policy import CapacityPolicy
from sandfleet.planning.fleet import (
    AbandonLaunch,
    CapacityView,
    DrainWorker,
    KeepWorker,
    LaunchMachine,
    Member,
    RemoveWorker,
    Resident,
    frozen_because,
)
from sandfleet.planning.placement import PlacementPolicy, PlacementRequest
from sandfleet.testing.builders import NOON, a_worker
from sandfleet.testing.virtual_fleet.fleet import Behaviour, VirtualFleet
from sandfleet.testing.virtual_fleet.run import Course, Run, run
from sandfleet.testing.virtual_fleet.trace import Arrival

SMALL = MachineSize("pool", "small", Resources(8192, 8, 400_000), price_per_hour=1.0, boot_s=60)
LARGE = MachineSize("pool", "large", Resources(16384, 16, 800_000), price_per_hour=2.0, boot_s=90)
OWN = MachineSize("static", "own", Resources(8192, 8, 400_000))
POLICY = CapacityPolicy(sizes=[SMALL, LARGE], workers_max=8, placement=PlacementPolicy(cpu_ratio_max=4))
TYPICAL = PlacementRequest(Resources(2048, 1, 20480), "base", "local")
FEW = settings(derandomize=True, max_examples=40)
# A run is not made smaller when it fails: that would take minutes, and the seed says it all.
TRACES = settings(derandomize=True, max_examples=8, phases=[Phase.explicit, Phase.generate])


def a_request(memory_mib: int) -> PlacementRequest:
    return PlacementRequest(Resources(memory_mib, 1, 20480), "base", "local")


REQUESTS = st.sampled_from([1024, 2048, 4096, 12288]).map(a_request)
STATES = st.sampled_from([WorkerState.READY] * 6 + [WorkerState.SILENT, WorkerState.UNREACHABLE])
AGES_S = st.sampled_from([5, 2000])


@st.composite
def members(draw: st.DrawFn, number: int) -> Member:
    size = draw(
        st.sampled_from([SMALL, LARGE, LARGE, MachineSize("static", "own", Resources(8192, 8, 400_000))])
    )
    asked = draw(st.lists(st.sampled_from([1024, 2048, 4096]), max_size=size.resources.memory_mib // 4096))
    residents = [Resident(SandboxId(f"sb-{number}-{at}"), a_request(one)) for at, one in enumerate(asked)]
    committed = sum((one.request.resources for one in residents), NOTHING)
    drained_by = draw(st.sampled_from([None, None, None, *DrainOwner]))
    return Member(
        worker=a_worker(
            f"wk-{number}",
            total=size.resources,
            committed=committed,
            state=draw(
                st.sampled_from([WorkerState.READY] * 6 + [WorkerState.SILENT, WorkerState.UNREACHABLE])
            ),
            cordoned=draw(st.sampled_from([False] * 5 + [True])),
            draining=drained_by is not None,
        ),
        size=size.key,
        added_at=NOON - timedelta(seconds=draw(st.sampled_from([10, 3600]))),
        residents=residents,
        drained_by=drained_by,
        is_proven_empty=not residents and draw(st.booleans()),
    )


@st.composite
def views(draw: st.DrawFn) -> CapacityView:
    count = draw(st.integers(0, 8))
    pending = [
        Launch(
            LaunchId(f"launch-0000000{n}"),
            "pool/small",
            "",
            NOON - timedelta(seconds=draw(st.sampled_from([5, 2000]))),
        )
        for n in range(draw(st.integers(0, 2)))
    ]
    return CapacityView(
        members=[draw(members(number)) for number in range(count)],
        launches=pending,
        queue=draw(st.lists(REQUESTS, max_size=4)),
        typical=TYPICAL,
    )


FAILURES = st.sampled_from(LaunchFailure) | st.none()
MEMORIES = st.just(CapacityMemory(launches=9)) | st.lists(st.integers(0, 60000), min_size=5, max_size=20).map(
    lambda samples: _remembering(samples)
)


def _remembering(samples: list[int]) -> CapacityMemory:
    memory = CapacityMemory(launches=9)
    for number, sample in enumerate(samples):
        at = NOON - timedelta(seconds=15 * (len(samples) - number))
        memory = replace(memory, demand=memory.demand.with_sample(sample, now=at))
    return memory


@FEW
@given(views(), MEMORIES)
def test_every_command_is_legal_with_those_before_it_done_or_not(
    view: CapacityView, memory: CapacityMemory
) -> None:
    plan = plan_capacity(view, POLICY, memory, now=NOON)
    by_id = {one.worker.id: one for one in view.members}
    launches = [one for one in plan.commands if isinstance(one, LaunchMachine)]
    machines = len(view.members) + sum(one.state is LaunchState.PENDING for one in view.launches)
    assert len({one.launch_id for one in launches}) == len(launches)
    assert not {one.launch_id for one in launches} & {one.id for one in view.launches}
    assert not launches or machines + len(launches) <= POLICY.workers_max
    for command in plan.commands:
        assert command.reason
        match command:
            case RemoveWorker(worker_id=worker_id):
                member = by_id[worker_id]
                assert member.drained_by is DrainOwner.CAPACITY
                assert not member.residents
                assert member.is_proven_empty
                assert member.worker.state is WorkerState.READY
            case DrainWorker(worker_id=worker_id):
                assert by_id[worker_id].takes_more
                assert by_id[worker_id].size != "static/own"
                assert (NOON - by_id[worker_id].added_at).total_seconds() >= POLICY.age_s_min
                assert not launches
            case KeepWorker(worker_id=worker_id):
                assert by_id[worker_id].drained_by is DrainOwner.CAPACITY
                assert not launches


@FEW
@given(views(), MEMORIES)
def test_everybody_who_is_drained_fits_elsewhere(view: CapacityView, memory: CapacityMemory) -> None:
    plan = plan_capacity(view, POLICY, memory, now=NOON)
    drained = {one.worker_id for one in plan.commands if isinstance(one, DrainWorker)}
    staying = [one.worker for one in view.members if one.takes_more and one.worker.id not in drained]
    if not drained:
        return
    leaving = [one for one in view.members if one.is_draining or one.worker.id in drained]
    moving = sum(one.request.resources.memory_mib for member in leaving for one in member.residents)
    free = sum(worker.total.memory_mib - worker.committed.memory_mib for worker in staying)
    assert moving <= free
    assert len(staying) >= POLICY.workers_min
    assert len(drained) + sum(one.is_draining for one in view.members) <= POLICY.drains_at_once


@FEW
@given(views(), MEMORIES)
def test_nothing_is_taken_away_while_many_are_unhealthy(view: CapacityView, memory: CapacityMemory) -> None:
    plan = plan_capacity(view, POLICY, memory, now=NOON)
    if frozen_because(view.members) is not None:
        assert not [
            one for one in plan.commands if isinstance(one, (DrainWorker, RemoveWorker, AbandonLaunch))
        ]
        assert plan.held.startswith("frozen")


@FEW
@given(views(), MEMORIES)
def test_equal_views_give_equal_plans_and_the_memory_goes_through_json(
    view: CapacityView, memory: CapacityMemory
) -> None:
    plan = plan_capacity(view, POLICY, memory, now=NOON)
    other = replace(view, members=list(reversed(view.members)), launches=list(reversed(view.launches)))
    assert plan_capacity(other, POLICY, memory, now=NOON) == plan
    assert CapacityMemory.from_json(json.loads(json.dumps(plan.memory.to_json()))) == plan.memory


@FEW
@given(
    st.lists(
        st.tuples(st.sampled_from(LaunchFailure) | st.none(), st.sampled_from(["a/x", "a/y", "b/x"])),
        max_size=12,
    )
)
def test_what_launches_taught_goes_through_json_and_is_learnt_once(
    ends: list[tuple[LaunchFailure | None, str]],
) -> None:
    launches = [
        Launch(
            LaunchId(f"launch-{number}"),
            size,
            "1",
            NOON,
            LaunchState.FAILED if why else LaunchState.JOINED,
            NOON + timedelta(seconds=number),
            why,
        )
        for number, (why, size) in enumerate(ends)
    ]
    memory = CapacityMemory().with_launches(launches).with_returned([WorkerId("wk-a")], now=NOON)
    assert memory.with_launches(launches) == memory
    assert CapacityMemory.from_json(json.loads(json.dumps(memory.to_json()))) == memory
    assert sum(len(times) for times in memory.boots_s.values()) == sum(why is None for why, _ in ends)


ARRIVALS = st.lists(
    st.tuples(st.integers(0, 3000), st.sampled_from([1024, 2048, 4096, 12288]), st.integers(60, 4000)),
    min_size=1,
    max_size=40,
)


def course(**changes: object) -> Course:
    return replace(Course(POLICY, TYPICAL.resources, workers_first=2, round_s=45.0), **changes)  # type: ignore[arg-type]


def a_trace(rows: list[tuple[int, int, int]]) -> list[Arrival]:
    return [
        Arrival(float(at), f"sb-{number:03}", memory_mib, float(lasts))
        for number, (at, memory_mib, lasts) in enumerate(sorted(rows))
    ]


@TRACES
@given(ARRIVALS, st.integers(0, 5))
def test_no_trace_oversells_or_ends_a_worker_with_sandboxes(
    rows: list[tuple[int, int, int]], seed: int
) -> None:
    def within_bounds(fleet: VirtualFleet, plan: CapacityPlan) -> None:
        assert (
            len(fleet.hosts) + sum(one.state is LaunchState.PENDING for one in fleet.launches.values()) <= 8
        )

    done = run(a_trace(rows), course(seed=seed, on_plan=within_bounds), until_s=9000)
    last = done.rounds[-1]
    assert last.sandboxes == 0
    assert last.queue == 0
    # Without load what is left is the minimum and the reserve, whichever is more.
    assert last.workers == 1
    assert last.draining == 0


@TRACES
@given(st.lists(st.sampled_from([1024, 2048, 4096]), min_size=1, max_size=25), st.integers(0, 3))
def test_constant_load_comes_to_rest_and_stays_there(sizes: list[int], seed: int) -> None:
    trace = a_trace([(0, memory_mib, 10**6) for memory_mib in sizes])
    done = run(trace, course(seed=seed, behaviour=Behaviour(wait_s_max=10**6)), until_s=10800)
    settled = [at for at, _ in done.sentences if at > 5400]
    assert settled == []
    assert_never_added_after_removal(done)


@TRACES
@given(st.integers(2, 20), st.integers(120, 600), st.integers(0, 3))
def test_load_that_comes_and_goes_within_ten_minutes_is_waited_out(
    count: int, period_s: int, seed: int
) -> None:
    pulses = [
        (float(start + 1), 2048, period_s // 2) for start in range(0, 7200, period_s) for _ in range(count)
    ]
    rows = [(int(at), memory_mib, lasts) for at, memory_mib, lasts in pulses]
    done = run(a_trace(rows), course(seed=seed, behaviour=Behaviour(wait_s_max=600)), until_s=7200)
    late = [at for at in done.fleet.tally.launched_at_s if at > 1800]
    assert late == []


def assert_never_added_after_removal(done: Run) -> None:
    tally = done.fleet.tally
    first = min(tally.removed_at_s, default=float("inf"))
    assert not [at for at in tally.launched_at_s if at > first]
