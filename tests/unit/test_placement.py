"""Stories of placement: every refusal has its reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandfleet.model.ids import WorkerId
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.placement import (
    FleetView,
    NoPlacement,
    Placement,
    PlacementPolicy,
    PlacementRequest,
    SavedState,
    place,
)
from sandfleet.testing.builders import a_worker, resources

REQUEST = PlacementRequest(resources(4096, cpu_count=2, disk_mib=20480), "base", "local")


@pytest.mark.parametrize(
    ("worker", "filter_name", "reason"),
    [
        (a_worker(state=WorkerState.UNREACHABLE), "state", "is unreachable"),
        (a_worker(cordoned=True), "cordoned", "is cordoned"),
        (a_worker(draining=True), "cordoned", "is draining"),
        (a_worker(memory_used_mib=15000), "used", "uses 92% of its memory"),
        (a_worker(region="far"), "region", "is in region far"),
        (a_worker(worker_version="1"), "version", "runs version 1"),
        (a_worker(templates={}), "template", "has no template base"),
        (a_worker(committed=resources(16000)), "memory", "short of memory: 384 free, 4096 wanted"),
        (
            a_worker(total=resources(1024, cpu_count=8, disk_mib=10**6)),
            "memory",
            "can never hold it: 4096 of memory wanted, 1024 in all",
        ),
        (
            a_worker(total=resources(16384, cpu_count=1, disk_mib=10**6)),
            "cpu",
            "can never hold it: 2 of vCPUs wanted, 1 in all",
        ),
        (
            a_worker(total=resources(16384, cpu_count=8, disk_mib=20480), committed=resources(1)),
            "disk",
            "short of disk: 0 free, 20480 wanted",
        ),
    ],
)
def test_a_refusal_names_its_filter_and_its_numbers(worker: Worker, filter_name: str, reason: str) -> None:
    policy = PlacementPolicy(cpu_ratio_max=1, disk_ratio_max=1, memory_used_ratio_max=0.9)
    request = replace(REQUEST, worker_version="2") if filter_name == "version" else REQUEST
    answer = place(request, FleetView([worker]), policy)
    assert isinstance(answer, NoPlacement)
    assert answer.refusals == {worker.id: reason}
    assert answer.candidates[0].refused_by == filter_name
    assert answer.is_hopeless == ("never" in reason)


def test_an_empty_fleet_is_not_hopeless_because_a_worker_may_join() -> None:
    answer = place(REQUEST, FleetView([]), PlacementPolicy())
    assert isinstance(answer, NoPlacement)
    assert not answer.is_hopeless


def test_the_fullest_that_fits_takes_it_and_ties_go_to_the_smaller_id() -> None:
    fleet = [
        a_worker("wk-c", committed=resources(8192)),
        a_worker("wk-b", committed=resources(8192)),
        a_worker("wk-a"),
    ]
    answer = place(REQUEST, FleetView(fleet), PlacementPolicy())
    assert isinstance(answer, Placement)
    assert answer.worker_id == WorkerId("wk-b")
    assert answer.reason == "best fit: 75% of memory committed after it"


def test_what_is_saved_goes_first_to_where_it_is_saved() -> None:
    saved = SavedState(WorkerId("wk-b"), is_durable=True, accelerator="tcg")
    fuller = a_worker("wk-a", committed=resources(8192, cpu_count=0, disk_mib=0))
    choice = place(
        PlacementRequest(resources(), "base", "local", saved),
        FleetView([fuller, a_worker("wk-b"), a_worker("wk-c")]),
        PlacementPolicy(),
    )
    assert isinstance(choice, Placement)
    assert (choice.worker_id, choice.reason) == ("wk-b", "has the saved state on its disk")


@pytest.mark.parametrize(
    ("saved", "worker", "reason"),
    [
        (
            SavedState(WorkerId("wk-b"), is_durable=False),
            a_worker("wk-a"),
            "does not have the saved state, which is not durable yet",
        ),
        (
            SavedState(None, is_durable=True, accelerator="kvm"),
            a_worker("wk-a", accelerator="tcg"),
            "cannot load what was saved under kvm",
        ),
        (
            SavedState(None, is_durable=True, accelerator="kvm", host_cpu="one"),
            a_worker("wk-a", accelerator="kvm", cpu_model="another"),
            "cannot load what was saved on one",
        ),
    ],
)
def test_a_worker_that_cannot_load_it_says_why(saved: SavedState, worker: Worker, reason: str) -> None:
    answer = place(
        PlacementRequest(resources(), "base", "local", saved), FleetView([worker]), PlacementPolicy()
    )
    assert isinstance(answer, NoPlacement)
    assert answer.refusals == {"wk-a": reason}


def test_emulated_state_loads_on_any_processor() -> None:
    saved = SavedState(None, is_durable=True, accelerator="tcg", host_cpu="one")
    answer = place(
        PlacementRequest(resources(), "base", "local", saved),
        FleetView([a_worker("wk-a", accelerator="tcg", cpu_model="another")]),
        PlacementPolicy(),
    )
    assert isinstance(answer, Placement)


def test_what_was_saved_needs_no_template() -> None:
    """A worker that has just begun again has none ready yet, and may hold what was saved."""
    saved = SavedState(WorkerId("wk-one"), is_durable=False)
    request = PlacementRequest(resources(), "base", "local", saved)
    found = place(request, FleetView([a_worker(templates={})]), PlacementPolicy())
    assert isinstance(found, Placement), found


def test_where_a_state_is_saved_goes_before_a_fuller_worker_that_promises_more_than_it_has() -> None:
    policy = PlacementPolicy(memory_ratio_max=2.0)
    request = PlacementRequest(resources(), "base", "local", SavedState(WorkerId("wk-b"), is_durable=True))
    fleet = [a_worker("wk-a", committed=resources(30_000)), a_worker("wk-b")]
    answer = place(request, FleetView(fleet), policy)
    assert isinstance(answer, Placement)
    assert answer.worker_id == WorkerId("wk-b")
