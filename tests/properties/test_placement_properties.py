"""Placement and queue over generated fleets: what must hold for every one of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from sandfleet.model.ids import OperationId, OrganisationId, WorkerId
from sandfleet.model.resources import Resources
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.placement import (
    FleetView,
    NoPlacement,
    Placement,
    PlacementPolicy,
    PlacementRequest,
    place,
)
from sandfleet.planning.queue import Waiting, in_turn, place_in_turn
from sandfleet.testing.builders import NOON, a_worker

POLICY = PlacementPolicy(memory_ratio_max=1.0, cpu_ratio_max=4.0, disk_ratio_max=2.0)
AMOUNTS = st.builds(
    Resources,
    memory_mib=st.integers(0, 8192),
    cpu_count=st.integers(0, 16),
    disk_mib=st.integers(0, 100_000),
)
SIZES = st.builds(
    Resources,
    memory_mib=st.integers(1, 4096),
    cpu_count=st.integers(1, 8),
    disk_mib=st.integers(1, 50_000),
)
REQUESTS = st.builds(
    PlacementRequest,
    resources=SIZES,
    template=st.sampled_from(["base", "other"]),
    region=st.sampled_from(["local", "far"]),
)


@st.composite
def workers(draw: st.DrawFn) -> list[Worker]:
    names = draw(st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=6))
    return [
        a_worker(
            f"wk-{name}",
            total=draw(AMOUNTS),
            committed=draw(AMOUNTS),
            state=draw(st.sampled_from(WorkerState)),
            cordoned=draw(st.booleans()),
            draining=draw(st.booleans()),
            region=draw(st.sampled_from(["local", "far"])),
            templates=draw(st.sampled_from([{}, {"base": "1"}, {"base": "1", "other": "2"}])),
        )
        for name in names
    ]


@st.composite
def queues(draw: st.DrawFn) -> list[Waiting]:
    count = draw(st.integers(0, 12))
    return [
        Waiting(
            operation_id=OperationId(f"op-{number}"),
            organisation_id=OrganisationId(draw(st.sampled_from("xyz"))),
            created_at=NOON + timedelta(seconds=draw(st.integers(0, 5))),
            request=draw(REQUESTS),
            excluded=frozenset(draw(st.lists(st.sampled_from([WorkerId("wk-a"), WorkerId("wk-b")])))),
        )
        for number in range(count)
    ]


def fits(worker: Worker, request: PlacementRequest) -> bool:
    after = worker.committed + request.resources
    return (
        worker.state is WorkerState.READY
        and not worker.cordoned
        and not worker.draining
        and worker.region == request.region
        and request.template in worker.templates
        and after.memory_mib <= worker.total.memory_mib * POLICY.memory_ratio_max
        and after.cpu_count <= worker.total.cpu_count * POLICY.cpu_ratio_max
        and after.disk_mib <= worker.total.disk_mib * POLICY.disk_ratio_max
    )


@given(workers(), REQUESTS)
def test_the_chosen_worker_fits_and_a_refusal_means_that_none_does(
    fleet: list[Worker], request: PlacementRequest
) -> None:
    answer = place(request, FleetView(fleet), POLICY)
    able = {worker.id for worker in fleet if fits(worker, request)}
    if isinstance(answer, Placement):
        assert answer.worker_id in able
    else:
        assert not able
        assert set(answer.refusals) == {worker.id for worker in fleet}


@given(workers(), REQUESTS, st.randoms())
def test_equal_fleets_in_any_order_give_equal_plans(
    fleet: list[Worker], request: PlacementRequest, shuffle: object
) -> None:
    other = list(fleet)
    shuffle.shuffle(other)  # type: ignore[attr-defined]
    assert place(request, FleetView(fleet), POLICY) == place(request, FleetView(other), POLICY)


@given(workers(), REQUESTS)
def test_the_fullest_worker_that_fits_is_chosen(fleet: list[Worker], request: PlacementRequest) -> None:
    answer = place(request, FleetView(fleet), POLICY)
    if isinstance(answer, Placement):
        share = {
            worker.id: (worker.committed.memory_mib + request.resources.memory_mib) / worker.total.memory_mib
            for worker in fleet
            if fits(worker, request)
        }
        assert share[answer.worker_id] == max(share.values())


@given(workers(), st.lists(REQUESTS, max_size=20))
def test_placing_one_after_the_other_never_oversells(
    fleet: list[Worker], requests: list[PlacementRequest]
) -> None:
    began = {worker.id: worker.committed for worker in fleet}
    for request in requests:
        answer = place(request, FleetView(fleet), POLICY)
        if isinstance(answer, Placement):
            fleet = [
                replace(worker, committed=worker.committed + request.resources)
                if worker.id == answer.worker_id
                else worker
                for worker in fleet
            ]
    for worker in fleet:
        if worker.committed != began[worker.id]:
            assert worker.committed.memory_mib <= worker.total.memory_mib


@given(queues())
def test_the_turn_keeps_everybody_and_is_fair_between_organisations(waiting: list[Waiting]) -> None:
    order = in_turn(waiting)
    assert sorted(one.operation_id for one in order) == sorted(one.operation_id for one in waiting)
    assert order == in_turn(list(reversed(waiting)))
    for at, one in enumerate(order):
        mine_before = sum(other.organisation_id == one.organisation_id for other in order[:at])
        for organisation in {other.organisation_id for other in waiting}:
            theirs = [other for other in waiting if other.organisation_id == organisation]
            served = sum(other.organisation_id == organisation for other in order[:at])
            # Nobody is served again before every other that waits was served as often.
            assert served >= min(len(theirs), mine_before)


@given(workers(), queues())
def test_whoever_is_placed_leaves_room_for_all_who_are_ahead_and_fit(
    fleet: list[Worker], waiting: list[Waiting]
) -> None:
    view = FleetView(fleet)
    order = in_turn(waiting)
    for at, mine in enumerate(order):
        answer = place_in_turn(mine, waiting, view, POLICY)
        if isinstance(answer, NoPlacement):
            continue
        assert answer.worker_id not in mine.excluded
        taken = FleetView(
            [
                replace(worker, committed=worker.committed + mine.request.resources)
                if worker.id == answer.worker_id
                else worker
                for worker in fleet
            ]
        )
        first = next(iter(order[:at]), None)
        if first is not None and isinstance(place_in_turn(first, waiting, view, POLICY), Placement):
            assert isinstance(place_in_turn(first, [first], taken, POLICY), Placement)
