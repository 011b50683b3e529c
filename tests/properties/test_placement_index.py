"""The index and the rule are one: whatever happens to a fleet, both choose alike and refuse alike."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from sandfleet.model.ids import WorkerId
from sandfleet.model.resources import Resources
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning import free_list
from sandfleet.planning.placement import (
    FleetView,
    NoPlacement,
    Placement,
    PlacementPolicy,
    PlacementRequest,
    SavedState,
    place,
)
from sandfleet.planning.placement_index import PlacementIndex
from sandfleet.testing.builders import a_worker

POLICIES = st.sampled_from(
    [
        PlacementPolicy(),
        PlacementPolicy(memory_ratio_max=1.7, cpu_ratio_max=2.0, disk_ratio_max=1.5),
        PlacementPolicy(memory_ratio_max=0.9, cpu_ratio_max=1.0, memory_used_ratio_max=0.5),
    ]
)
NAMES = [WorkerId(f"wk-{letter}") for letter in "abcdefghijkl"]
TOTALS = st.sampled_from(
    [Resources(4096, 4, 100_000), Resources(8192, 8, 200_000), Resources(8192, 2, 50_000)]
)
PARTS = st.builds(Resources, st.integers(0, 32).map(lambda n: n * 128), st.integers(0, 4), st.just(10_000))
SIZES = st.builds(Resources, st.integers(1, 40).map(lambda n: n * 128), st.integers(1, 4), st.just(20_000))
SAVED = st.builds(
    SavedState,
    worker_id=st.sampled_from([*NAMES, None]),
    is_durable=st.booleans(),
    accelerator=st.sampled_from(["", "tcg", "kvm"]),
    host_cpu=st.sampled_from(["", "epyc", "xeon"]),
)
REQUESTS = st.builds(
    PlacementRequest,
    resources=SIZES,
    template=st.sampled_from(["base", "other"]),
    region=st.sampled_from(["local", "local", "far"]),
    saved=st.none() | SAVED,
    worker_version=st.sampled_from([None, None, "1", "2"]),
)
STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "drop", "place", "release"]), st.integers(0, 10**6)), max_size=25
)


@st.composite
def workers(draw: st.DrawFn) -> Worker:
    return a_worker(
        draw(st.sampled_from(NAMES)),
        total=draw(TOTALS),
        committed=draw(PARTS),
        state=draw(st.sampled_from([WorkerState.READY] * 4 + [WorkerState.SILENT])),
        cordoned=draw(st.sampled_from([False, False, False, True])),
        draining=draw(st.sampled_from([False, False, False, True])),
        region=draw(st.sampled_from(["local", "local", "far"])),
        templates=draw(st.sampled_from([{"base": "1"}, {"base": "1", "other": "2"}, {}])),
        accelerator=draw(st.sampled_from(["tcg", "kvm"])),
        cpu_model=draw(st.sampled_from(["epyc", "xeon"])),
        worker_version=draw(st.sampled_from(["1", "2"])),
        memory_used_mib=draw(st.sampled_from([0, 3000, 8000])),
    )


@settings(derandomize=True, max_examples=80)
@given(
    st.lists(workers(), max_size=12), POLICIES, st.lists(REQUESTS, min_size=1, max_size=8), STEPS, st.data()
)
def test_index_and_rule_agree_through_every_change(
    fleet: list[Worker],
    policy: PlacementPolicy,
    requests: list[PlacementRequest],
    steps: list[tuple[str, int]],
    data: st.DataObject,
) -> None:
    plain = {worker.id: worker for worker in fleet}
    index = PlacementIndex(plain.values(), policy)
    placed: list[tuple[WorkerId, Resources]] = []
    for what, number in steps:
        if what == "put":
            worker = data.draw(workers())
            plain[worker.id] = worker
            index.put(worker)
            placed = [one for one in placed if one[0] != worker.id]
        elif what == "drop":
            name = NAMES[number % len(NAMES)]
            plain.pop(name, None)
            index.drop(name)
            placed = [one for one in placed if one[0] != name]
        elif what == "release" and placed:
            name, size = placed.pop(number % len(placed))
            index.release(name, size)
            plain[name] = replace(plain[name], committed=plain[name].committed - size)
        else:
            request = requests[number % len(requests)]
            answer = agreed(index, plain, request, policy, excluded=frozenset(NAMES[: number % 3]))
            if answer is not None:
                index.reserve(answer, request.resources)
                plain[answer] = replace(plain[answer], committed=plain[answer].committed + request.resources)
                placed.append((answer, request.resources))
    for request in requests:
        agreed(index, plain, request, policy, excluded=frozenset())
    assert {worker.id: worker for worker in index.view().workers} == plain


def agreed(
    index: PlacementIndex,
    plain: dict[WorkerId, Worker],
    request: PlacementRequest,
    policy: PlacementPolicy,
    *,
    excluded: frozenset[WorkerId],
) -> WorkerId | None:
    found = index.place(request, excluded=excluded)
    right = place(request, FleetView([one for one in plain.values() if one.id not in excluded]), policy)
    if isinstance(right, Placement):
        assert isinstance(found, Placement)
        assert (found.worker_id, found.reason) == (right.worker_id, right.reason)
        return right.worker_id
    assert isinstance(found, NoPlacement)
    assert found.refusals == right.refusals
    assert list(found.refusals) == list(right.refusals)
    assert found.is_hopeless == right.is_hopeless
    return None


ROOMS = st.builds(Resources, st.integers(0, 6), st.integers(0, 3), st.integers(0, 3))


@settings(derandomize=True, max_examples=80)
@given(st.lists(ROOMS, min_size=1, max_size=60), st.lists(ROOMS, min_size=1, max_size=10), st.integers(0, 59))
def test_blocks_that_split_and_shrink_hide_no_worker(
    free: list[Resources], wanted: list[Resources], removed: int
) -> None:
    kept = free_list.BLOCK_LENGTH_MAX
    free_list.BLOCK_LENGTH_MAX = 4
    try:
        listed = free_list.FreeList()
        plain = {WorkerId(f"wk-{number:02}"): room for number, room in enumerate(free)}
        for name, room in plain.items():
            listed.add(name, room)
        for number, want in enumerate(wanted):
            fitting = [
                (room.memory_mib, name)
                for name, room in plain.items()
                if room.memory_mib >= want.memory_mib
                and room.cpu_count >= want.cpu_count
                and room.disk_mib >= want.disk_mib
            ]
            assert listed.first_fit(want) == (min(fitting)[1] if fitting else None)
            gone = WorkerId(f"wk-{(removed + number) % 60:02}")
            if gone in plain:
                del plain[gone]
                listed.remove(gone)
                listed.add(gone, want)
                plain[gone] = want
        assert len(listed) == len(plain)
    finally:
        free_list.BLOCK_LENGTH_MAX = kept
