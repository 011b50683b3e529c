"""Why a sandbox is where it is, read out of its log; and what a placement keeps of its decision."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sandfleet.lifecycle.placing import placed_rows
from sandfleet.model.ids import OperationId, WorkerId
from sandfleet.model.operation import OperationKind
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.transition import Transition
from sandfleet.planning.moving import all_candidates
from sandfleet.planning.placement import Candidate, FleetView, Placement
from sandfleet.planning.placement_history import stays
from sandfleet.planning.placement_record import (
    CANDIDATES_KEPT,
    KEY,
    placement_detail,
    recorded_candidates,
)
from sandfleet.testing.builders import NOON, a_sandbox, a_worker, an_operation

HERE, THERE = WorkerId("wk-a"), WorkerId("wk-b")
CANDIDATES = (
    Candidate(HERE, score=0.5, refused_by=None, reason="best fit"),
    Candidate(THERE, score=None, refused_by="memory", reason="short of memory"),
)


def row(event: str, minute: int, **changes: Any) -> Transition:
    return Transition(event, "somebody", f"because of {event}", NOON + timedelta(minutes=minute), **changes)


def placed(minute: int, worker: WorkerId, epoch: int, *, cause: str = "create") -> Transition:
    detail = placement_detail(a_sandbox(), CANDIDATES, chosen=worker, cause=cause)
    return row("placed", minute, worker_id=worker, epoch=epoch, detail=detail)


def told(*log: Transition) -> list[tuple[str, int, str, int | None]]:
    return [
        (
            one.worker_id,
            one.epoch,
            one.cause,
            None if one.until is None else int((one.until - NOON).total_seconds() / 60),
        )
        for one in stays(log)
    ]


def test_a_sandbox_that_runs_is_where_it_was_placed() -> None:
    assert told(row("created", 0), placed(1, HERE, 1), row("booted", 2, to_state="running")) == [
        (HERE, 1, "create", None)
    ]


def test_a_move_ends_one_stay_and_begins_the_next_with_its_own_decision() -> None:
    move = OperationId("op-move")
    asked = row(
        "migrate_requested",
        3,
        worker_id=HERE,
        operation_id=move,
        detail=placement_detail(a_sandbox(), CANDIDATES, chosen=THERE, cause="migrate"),
    )
    log = (placed(1, HERE, 1), asked, row("moved", 4, worker_id=THERE, epoch=2, operation_id=move))
    assert told(*log) == [(HERE, 1, "create", 4), (THERE, 2, "migrate", None)]
    assert stays(log)[1].reason == "because of migrate_requested"
    assert len(recorded_candidates(stays(log)[1].decision)) == 2


def test_a_move_that_failed_changes_nothing() -> None:
    log = (placed(1, HERE, 1), row("migrate_requested", 3), row("migrate_failed", 4, to_state="running"))
    assert told(*log) == [(HERE, 1, "create", None)]


def test_who_sleeps_is_nowhere_and_wakes_somewhere() -> None:
    log = (
        placed(1, HERE, 1),
        row("hibernated", 2, to_state="hibernated"),
        placed(5, THERE, 2, cause="wake"),
        row("kill_requested", 6, to_state="stopped"),
    )
    assert told(*log) == [(HERE, 1, "create", 2), (THERE, 2, "wake", 6)]


def test_a_worker_that_refuses_or_is_lost_ends_the_stay() -> None:
    for event in ("refused", "recover", "cleared"):
        assert told(placed(1, HERE, 1), row(event, 2, worker_id=HERE, to_state="waking")) == [
            (HERE, 1, "create", 2)
        ]


def test_rows_from_before_decisions_were_recorded_tell_what_they_can() -> None:
    log = (row("placed", 1, worker_id=HERE, epoch=1), row("moved", 2, worker_id=THERE, epoch=2))
    assert told(*log) == [(HERE, 1, "create", 2), (THERE, 2, "migrate", None)]
    assert told(row("placed", 1)) == []


def test_what_is_kept_of_a_decision_comes_back() -> None:
    detail = placement_detail(a_sandbox(), CANDIDATES, chosen=HERE, cause="create")
    assert recorded_candidates(detail[KEY]) == list(CANDIDATES)
    assert detail[KEY]["left_out"] == 0


def test_of_a_large_fleet_those_that_came_next_are_kept() -> None:
    refused = [
        Candidate(WorkerId(f"wk-{n:04}"), score=None, refused_by="memory", reason="x") for n in range(300)
    ]
    fitting = [
        Candidate(WorkerId(f"wk-9{n:03}"), score=n / 100, refused_by=None, reason="y") for n in range(3)
    ]
    chosen = refused[-1].worker_id
    kept = placement_detail(a_sandbox(), [*refused, *fitting], chosen=chosen, cause="create")[KEY]
    names = [one.worker_id for one in recorded_candidates(kept)]
    assert (len(names), kept["left_out"]) == (CANDIDATES_KEPT, 303 - CANDIDATES_KEPT)
    assert names == sorted(names)
    assert {chosen, *(one.worker_id for one in fitting)} <= set(names)


def _cause(kind: OperationKind, sandbox: Sandbox) -> Any:
    decision = Placement(HERE, "best fit", CANDIDATES)
    rows = placed_rows(an_operation(kind=kind), sandbox, a_worker(HERE), decision=decision, at=NOON)
    return rows.transition.detail[KEY]["cause"]


def test_a_placement_says_what_it_is_for() -> None:
    saved = a_sandbox(snapshot_id="snap")
    assert _cause(OperationKind.CREATE, a_sandbox()) == "create"
    assert _cause(OperationKind.CREATE, saved) == "fork"
    assert _cause(OperationKind.WAKE, saved) == "wake"
    assert _cause(OperationKind.RECOVER, saved) == "recover"


def test_a_move_says_also_why_it_was_not_between_the_others() -> None:
    view = FleetView([a_worker("wk-a"), a_worker("wk-b"), a_worker("wk-c")])
    choice = Placement(THERE, "best fit", (Candidate(THERE, score=0.5, refused_by=None, reason="best fit"),))
    found = all_candidates(choice, view, source=HERE)
    assert [(one.worker_id, one.refused_by) for one in found] == [
        ("wk-a", "source"),
        ("wk-b", None),
        ("wk-c", "wanted"),
    ]
