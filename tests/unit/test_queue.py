"""Stories of the creation queue."""

from __future__ import annotations

from datetime import timedelta

from sandfleet.model.ids import OperationId, OrganisationId, WorkerId
from sandfleet.planning.placement import FleetView, NoPlacement, Placement, PlacementPolicy, PlacementRequest
from sandfleet.planning.queue import AHEAD_MAX, Waiting, in_turn, place_in_turn
from sandfleet.testing.builders import NOON, a_worker, resources

POLICY = PlacementPolicy()


def waiting(name: str, organisation: str = "x", *, second: int = 0, memory_mib: int = 1024) -> Waiting:
    return Waiting(
        OperationId(name),
        OrganisationId(organisation),
        NOON + timedelta(seconds=second),
        PlacementRequest(resources(memory_mib), "base", "local"),
    )


def room_for(count: int) -> FleetView:
    return FleetView([a_worker(total=resources(count * 1024, cpu_count=8, disk_mib=10**7))])


def test_the_second_organisation_does_not_wait_behind_the_whole_first() -> None:
    many = [waiting(f"x{number}", "x", second=number) for number in range(5)]
    late = waiting("y0", "y", second=9)
    assert [one.operation_id for one in in_turn([*many, late])][:3] == ["x0", "y0", "x1"]


def test_who_is_ahead_and_fits_keeps_the_place() -> None:
    first, second = waiting("a", second=0), waiting("b", second=1)
    refused = place_in_turn(second, [first], room_for(1), POLICY)
    assert isinstance(refused, NoPlacement)
    assert refused.behind == 1
    assert isinstance(place_in_turn(first, [first, second], room_for(1), POLICY), Placement)
    assert isinstance(place_in_turn(second, [first], room_for(2), POLICY), Placement)


def test_who_is_ahead_and_does_not_fit_blocks_nobody() -> None:
    large, small = waiting("a", second=0, memory_mib=8192), waiting("b", second=1)
    assert isinstance(place_in_turn(small, [large], room_for(1), POLICY), Placement)


def test_without_room_the_reason_is_the_fleet_not_the_queue() -> None:
    refused = place_in_turn(waiting("b", second=1), [waiting("a")], room_for(0), POLICY)
    assert isinstance(refused, NoPlacement)
    assert refused.behind == 0
    assert "memory" in refused.refusals[WorkerId("wk-one")]


def test_behind_very_many_it_is_not_yet_ones_turn() -> None:
    ahead = [waiting(f"a{number:03}") for number in range(AHEAD_MAX + 1)]
    refused = place_in_turn(waiting("z", second=1), ahead, room_for(1000), POLICY)
    assert isinstance(refused, NoPlacement)
    assert refused.behind == AHEAD_MAX + 1


def test_a_worker_that_refused_it_itself_is_not_asked_again() -> None:
    mine = Waiting(
        OperationId("a"),
        OrganisationId("x"),
        NOON,
        PlacementRequest(resources(), "base", "local"),
        excluded=frozenset({WorkerId("wk-one")}),
    )
    assert isinstance(place_in_turn(mine, [], room_for(5), POLICY), NoPlacement)
