"""Who leaves a draining worker next, where each goes, and why the others stay."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from sandfleet.model.drain import Drain, DrainState, Stay, StayReason
from sandfleet.model.ids import OperationId, SandboxId, WorkerId
from sandfleet.model.sandbox import SandboxState
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.draining import (
    _LEAVING,
    TOO_LATE,
    DrainPlan,
    DrainPolicy,
    Resident,
    drain_plan,
    retry_at,
    saves_begin,
    state_of,
)
from sandfleet.planning.placement import FleetView, PlacementPolicy
from sandfleet.testing.builders import NOON, a_sandbox, a_worker, resources

HOME = WorkerId("wk-home")
POLICY = DrainPolicy(2, PlacementPolicy())


def a_resident(name: str, memory_mib: int = 1024, *, before: Stay | None = None, **changes: Any) -> Resident:
    given: dict[str, Any] = {"state": SandboxState.RUNNING, "worker_id": HOME, "epoch": 1}
    sandbox = a_sandbox(name, resources=resources(memory_mib), **{**given, **changes})
    return Resident(sandbox, before=before)


def planned(
    *residents: Resident,
    moves_at_once: int = 2,
    incoming: dict[str, int] | None = None,
    policy: DrainPolicy = POLICY,
    **workers: Any,
) -> DrainPlan:
    """Plan on a fleet of the draining worker and `workers`: how much memory each has."""
    home = a_worker(HOME, draining=True)
    others = [
        a_worker(f"wk-{name}", total=resources(memory_mib, cpu_count=64, disk_mib=10**9))
        for name, memory_mib in workers.items()
    ]
    return drain_plan(
        home,
        residents,
        FleetView([home, *others]),
        replace(policy, moves_at_once=moves_at_once),
        now=NOON,
        incoming={WorkerId(name): count for name, count in (incoming or {}).items()},
    )


def moves(plan: DrainPlan) -> list[tuple[str, str]]:
    return [(move.sandbox.id, move.target) for move in plan.moves]


def said(plan: DrainPlan) -> dict[str, tuple[str, str]]:
    return {stay.sandbox_id: (stay.reason.value, stay.said) for stay in plan.stays}


def test_the_lightest_leave_first_and_no_more_than_may_at_once() -> None:
    plan = planned(a_resident("sb-c", 4096), a_resident("sb-b"), a_resident("sb-a", 2048), away=16384)
    assert moves(plan) == [("sb-b", "wk-away"), ("sb-a", "wk-away")]
    assert said(plan) == {"sb-c": ("waiting", "wk-away takes others first")}


def test_one_worker_takes_no_more_at_once_than_another_gives() -> None:
    plan = planned(
        a_resident("sb-a"), a_resident("sb-b"), incoming={"wk-away": 1}, moves_at_once=2, away=16384
    )
    assert moves(plan) == [("sb-a", "wk-away")]
    assert said(plan) == {"sb-b": ("waiting", "wk-away takes others first")}


def test_what_is_under_way_counts_and_is_told_with_where_it_goes() -> None:
    before = Stay(a_resident("sb-a").sandbox.id, StayReason.WAITING, "?", target=WorkerId("wk-away"))
    moving = a_resident("sb-a", state=SandboxState.MIGRATING, before=before)
    plan = planned(moving, a_resident("sb-b"), moves_at_once=1, away=16384)
    assert moves(plan) == []
    assert said(plan) == {"sb-a": ("moving", "it moves to wk-away"), "sb-b": ("waiting", "others move first")}


def test_what_was_planned_before_takes_its_room() -> None:
    plan = planned(a_resident("sb-a"), a_resident("sb-b"), one=1024, two=1536)
    assert moves(plan) == [("sb-a", "wk-one"), ("sb-b", "wk-two")]


def test_one_without_a_place_is_told_why_and_holds_up_nobody() -> None:
    plan = planned(a_resident("sb-a", 2048), a_resident("sb-b", 4096), away=3072)
    assert moves(plan) == [("sb-a", "wk-away")]
    reason, why = said(plan)["sb-b"]
    assert reason == "held"
    assert why == "nobody can take it: wk-away can never hold it: 4096 of memory wanted, 3072 in all"
    alone = said(planned(a_resident("sb-a")))["sb-a"]
    assert alone == ("held", "nobody can take it: there is no other worker")


@pytest.mark.parametrize(
    "state",
    [one for one in SandboxState if one not in (SandboxState.RUNNING, *_LEAVING)],
)
def test_only_what_runs_moves(state: SandboxState) -> None:
    plan = planned(a_resident("sb-a", state=state), away=16384)
    assert moves(plan) == []
    assert [stay.reason for stay in plan.stays] == [StayReason.WAITING]


def test_what_is_busy_has_its_turn_when_that_has_ended() -> None:
    busy = replace(a_resident("sb-a"), under_way="checkpoint")
    assert said(planned(busy, away=16384)) == {"sb-a": ("waiting", "checkpoint is under way")}


def test_of_a_worker_that_does_not_answer_nothing_is_moved() -> None:
    home = a_worker(HOME, draining=True, state=WorkerState.SILENT)
    view = FleetView([home, a_worker("wk-away")])
    plan = drain_plan(home, [a_resident("sb-a")], view, POLICY, now=NOON, incoming={})
    assert said(plan) == {"sb-a": ("held", "wk-home is silent")}


def a_failure(*, attempts: int = 1, in_s: float = 0) -> Stay:
    return Stay(
        a_resident("sb-a").sandbox.id,
        StayReason.HELD,
        "its move to wk-one failed: no",
        target=WorkerId("wk-one"),
        attempts=attempts,
        retry_at=NOON + timedelta(seconds=in_s),
    )


def test_a_move_that_failed_waits_for_its_time_and_keeps_its_reason() -> None:
    plan = planned(a_resident("sb-a", before=a_failure(in_s=1)), one=1024, two=2048)
    assert moves(plan) == []
    assert plan.stays == (a_failure(in_s=1),)


def test_it_goes_elsewhere_then_if_there_is_elsewhere() -> None:
    failed = a_resident("sb-a", before=a_failure())
    assert moves(planned(failed, one=1024, two=2048)) == [("sb-a", "wk-two")]
    assert moves(planned(failed, one=1024)) == [("sb-a", "wk-one")]


def test_each_failure_doubles_the_pause_up_to_five_minutes() -> None:
    waits = [(retry_at(attempts, now=NOON) - NOON).total_seconds() for attempts in (1, 2, 3, 7, 1000)]
    assert waits == [5, 10, 20, 300, 300]


def test_a_roll_outs_drain_moves_to_the_version_that_is_wanted_and_to_no_other() -> None:
    """Not even when its last move there has failed."""
    home, old, new = (a_worker(f"wk-{name}", worker_version=name) for name in ("home", "1", "2"))
    wanted = replace(POLICY, worker_version="2")

    def plan(*others: Worker, before: Stay | None = None) -> DrainPlan:
        view = FleetView([home, *others])
        return drain_plan(home, [a_resident("sb-a", before=before)], view, wanted, now=NOON, incoming={})

    assert moves(plan(old, new)) == [("sb-a", "wk-2")]
    assert said(plan(old)) == {"sb-a": ("held", "nobody can take it: wk-1 runs version 1")}
    failed = Stay(SandboxId("sb-a"), StayReason.HELD, "no", target=WorkerId("wk-2"), attempts=1)
    assert moves(plan(old, new, before=failed)) == [("sb-a", "wk-2")]


def test_nobody_left_is_done() -> None:
    assert planned(away=16384) == DrainPlan((), ())


def test_equal_fleets_give_equal_plans_in_any_order() -> None:
    residents = [a_resident(f"sb-{number}", 512 * (1 + number % 3)) for number in range(6)]
    forth, back = (planned(*some, one=4096, two=4096) for some in (residents, residents[::-1]))
    assert forth == back
    assert Counter(target for _, target in moves(forth)) == {"wk-one": 2}


SOON = replace(POLICY, deadline_at=NOON + timedelta(minutes=4), saves_from=NOON)


def saves(plan: DrainPlan) -> list[tuple[str, str]]:
    return [(save.sandbox.id, save.reason) for save in plan.saves]


def test_the_room_that_is_asked_for_is_what_is_reserved_not_what_the_row_says() -> None:
    grown = replace(a_resident("sb-a"), reserved_mib=3072)
    assert moves(planned(grown, away=2048)) == []
    assert moves(planned(grown, a_resident("sb-b"), away=3072)) == [("sb-a", "wk-away")]


def test_shortly_before_the_deadline_what_nobody_can_take_is_put_to_sleep() -> None:
    fits, large = a_resident("sb-a"), a_resident("sb-b", 4096)
    before = planned(fits, large, policy=replace(SOON, saves_from=NOON + timedelta(seconds=1)), away=2048)
    assert (moves(before), saves(before)) == ([("sb-a", "wk-away")], [])
    plan = planned(fits, large, policy=SOON, away=2048)
    assert moves(plan) == [("sb-a", "wk-away")]
    why = "nobody can take it: wk-away can never hold it: 4096 of memory wanted, 2048 in all"
    assert (saves(plan), plan.stays) == ([("sb-b", why)], ())


def test_what_waits_for_its_turn_is_put_to_sleep_then_as_well_and_no_more_than_may_at_once() -> None:
    four = [a_resident(f"sb-{name}") for name in "abcd"]
    plan = planned(*four, policy=SOON, moves_at_once=1, away=16384)
    assert moves(plan) == [("sb-a", "wk-away")]
    assert saves(plan) == [("sb-b", "wk-away takes others first")]
    assert [stay.said for stay in plan.stays] == [
        "others are put to sleep first; wk-away takes others first"
    ] * 2


def test_more_may_be_put_to_sleep_at_once_than_move() -> None:
    many = [a_resident(f"sb-{name}") for name in "abcd"]
    assert len(saves(planned(*many, policy=replace(SOON, saves_at_once=3)))) == 3


def test_what_is_being_put_to_sleep_counts() -> None:
    sleepy = a_resident("sb-a", state=SandboxState.HIBERNATING)
    plan = planned(sleepy, a_resident("sb-b"), policy=SOON, moves_at_once=1)
    assert saves(plan) == []
    assert said(plan)["sb-a"] == ("saving", "it is being put to sleep")


def test_without_an_object_store_nothing_is_put_to_sleep_and_it_is_told() -> None:
    plan = planned(a_resident("sb-a"), policy=replace(SOON, no_saves="there is no object store"))
    assert saves(plan) == []
    held = "nobody can take it: there is no other worker; it is not put to sleep: there is no object store"
    assert said(plan) == {"sb-a": ("held", held)}


def test_a_move_that_would_end_after_the_deadline_is_not_begun() -> None:
    """After the deadline there is nothing to lose any more."""
    heavy = a_resident("sb-a", 16384)
    assert saves(planned(heavy, policy=SOON, away=16384)) == [
        ("sb-a", "it would not be elsewhere before the deadline")
    ]
    early = replace(SOON, saves_from=NOON + timedelta(minutes=2))
    assert len(saves(planned(heavy, policy=early, away=16384))) == 1
    over = replace(SOON, deadline_at=NOON)
    assert moves(planned(heavy, policy=over, away=16384)) == [("sb-a", "wk-away")]


def test_a_move_that_has_just_failed_is_not_waited_for_then_but_a_failed_save_is() -> None:
    failed = a_failure(in_s=60)
    assert [name for name, _ in saves(planned(a_resident("sb-a", before=failed), policy=SOON))] == ["sb-a"]
    sleepless = replace(failed, has_failed_to_sleep=True)
    assert planned(a_resident("sb-a", before=sleepless), policy=SOON).stays == (sleepless,)


def test_what_is_left_of_an_earlier_move_holds_up_a_move_and_no_save() -> None:
    uncleared = replace(a_resident("sb-a"), is_cleared=False)
    why = "an earlier move of it is not cleared away yet"
    assert said(planned(uncleared, away=16384)) == {"sb-a": ("waiting", why)}
    assert saves(planned(uncleared, policy=SOON, away=16384)) == [("sb-a", why)]


@pytest.mark.parametrize(("minutes", "before"), [(60, 5), (4, 2), (0, 0), (-1, 0)])
def test_saves_begin_five_minutes_before_the_deadline_or_half_way_to_it(minutes: int, before: int) -> None:
    drain = Drain(HOME, "test", NOON, deadline_at=NOON + timedelta(minutes=minutes))
    assert drain.deadline_at is not None
    assert saves_begin(drain) == drain.deadline_at - timedelta(minutes=before)
    assert saves_begin(replace(drain, deadline_at=None)) is None


def test_a_worker_that_is_not_empty_at_its_deadline_is_stuck_until_it_is() -> None:
    drain = Drain(HOME, "test", NOON, deadline_at=NOON + timedelta(minutes=1))
    there = [Stay(a_resident("sb-a").sandbox.id, StayReason.HELD, "no")]
    early, late = NOON, NOON + timedelta(minutes=1)
    assert state_of(drain, there, is_bare=False, now=early) is DrainState.DRAINING
    assert state_of(drain, there, is_bare=False, now=late) is DrainState.STUCK
    assert state_of(drain, (), is_bare=False, now=late) is DrainState.STUCK
    assert state_of(drain, (), is_bare=True, now=late) is DrainState.DRAINED
    assert replace(drain, state=DrainState.STUCK, stays=there).news == (
        "drain_stuck",
        "its deadline is over, 1 are there still: sb-a: no",
    )


ENDING = replace(
    POLICY, deadline_at=NOON + timedelta(seconds=110), saves_from=NOON, saves_at_once=2, is_host_ending=True
)


def test_where_the_host_ends_each_leaves_in_the_cheapest_way_that_is_in_time() -> None:
    """A move comes before a sleep, a sleep before a checkpoint, each while there is time for it."""
    residents = [a_resident("sb-a", 4096), a_resident("sb-b", 8192), a_resident("sb-c", 16384)]
    plan = planned(*residents, policy=ENDING, away=65536)
    assert moves(plan) == [("sb-a", "wk-away")]
    assert [save.sandbox.id for save in plan.saves] == ["sb-b"]
    assert [(one.sandbox.id, one.reason) for one in plan.checkpoints] == [("sb-c", TOO_LATE)]
    assert planned(*residents, policy=replace(ENDING, is_host_ending=False), away=65536).checkpoints == ()


def test_a_checkpoint_is_taken_once_counts_as_a_save_and_is_not_taken_again_at_once_if_it_failed() -> None:
    def before(reason: StayReason = StayReason.HELD, **changes: Any) -> Resident:
        return a_resident("sb-a", 16384, before=Stay(SandboxId("sb-a"), reason, "before", **changes))

    under_way = before(StayReason.KEEPING, operation_id=OperationId("op-1"))
    plan = planned(under_way, a_resident("sb-b", 16384), policy=replace(ENDING, saves_at_once=1))
    assert plan.stays[0] == under_way.before
    assert said(plan)["sb-b"][0] == "waiting"
    kept = before(kept_at=NOON)
    assert "comes back from" in said(planned(kept, policy=ENDING))["sb-a"][1]
    bringing = replace(kept, is_saved_here_alone=True)
    assert "brought to the object store" in said(planned(bringing, policy=ENDING))["sb-a"][1]
    later = NOON + timedelta(seconds=5)
    failed = before(has_failed_to_be_kept=True, attempts=1, retry_at=later)
    assert said(planned(failed, policy=ENDING)) == {"sb-a": ("held", "before")}
    refused = before(has_failed_to_sleep=True, attempts=1, retry_at=later)
    assert len(planned(refused, policy=ENDING).checkpoints) == 1
    no_store = replace(ENDING, no_saves="there is no object store")
    assert planned(before(), policy=no_store).checkpoints == ()
