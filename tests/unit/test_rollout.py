"""Stories of a roll-out, step by step."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from sandfleet.model.drain import DrainOwner
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.launch import Launch, LaunchFailure, LaunchId, LaunchState
from sandfleet.model.resources import NOTHING, Resources
from sandfleet.model.worker import WorkerState
from sandfleet.planning.fleet import (
    AbandonLaunch,
    DrainWorker,
    KeepWorker,
    Member,
    RemoveWorker,
    Resident,
    Surge,
)
from sandfleet.planning.placement import PlacementRequest
from sandfleet.planning.rollout import RolloutPlan, RolloutPolicy, RolloutView, Wellness, step_rollout
from sandfleet.planning.rollout_state import Rollout, RolloutStage, begin_rollout, cancel_rollout
from sandfleet.testing.builders import NOON, a_worker

POLICY = RolloutPolicy()
BEGUN = NOON - timedelta(minutes=30)
TEST = Rollout("2", "1", RolloutStage.BOOT_TEST, BEGUN, BEGUN)
CANARY = Rollout("2", "1", RolloutStage.CANARY, BEGUN, BEGUN)
FLEET = Rollout("2", "1", RolloutStage.FLEET, BEGUN, BEGUN)


def member(name: str, *residents: int, version: str = "1", **changes: Any) -> Member:
    lives = [
        Resident(SandboxId(f"sb-{name}-{at}"), PlacementRequest(Resources(one, 1, 20480), "base", "local"))
        for at, one in enumerate(residents)
    ]
    drained_by = changes.pop("drained_by", None)
    added_at = changes.pop("added_at", NOON - timedelta(seconds=900))
    worker = a_worker(
        f"wk-{name}",
        **{
            "worker_version": version,
            "committed": sum((one.request.resources for one in lives), NOTHING),
            "draining": drained_by is not None,
            **changes,
        },
    )
    return Member(worker, "pool/small", added_at, lives, drained_by, is_proven_empty=not lives)


def step(
    rollout: Rollout, *members: Member, wanted: int = 2, policy: RolloutPolicy = POLICY, **view: Any
) -> RolloutPlan:
    proven = {one.worker.id: Wellness(is_proven=True) for one in members}
    wellness, now = proven | view.pop("wellness", {}), view.pop("now", NOON)
    return step_rollout(rollout, RolloutView(members, wanted, wellness=wellness, **view), policy, now=now)


def drained(plan: RolloutPlan) -> list[str]:
    return [one.worker_id for one in plan.commands if isinstance(one, DrainWorker)]


def test_what_was_not_boot_tested_is_tested_first() -> None:
    assert begin_rollout("1", "1", is_boot_tested=True, now=NOON) == "the fleet runs version 1 already"
    tested = begin_rollout("2", "1", is_boot_tested=True, now=NOON)
    assert tested == Rollout("2", "1", RolloutStage.CANARY, NOON, NOON)
    untested = begin_rollout("2", "1", is_boot_tested=False, now=NOON)
    assert untested == Rollout("2", "1", RolloutStage.BOOT_TEST, NOON, NOON)
    assert (untested.target, untested.base_version) == ("2", "1")


def test_one_machine_is_tested_beside_the_fleet_and_nothing_else_changes() -> None:
    alone = step(TEST, member("a", 1024), member("b"))
    assert alone.commands == ()
    assert alone.surge == Surge(1, "2", is_under_way=True, above_max=1)
    assert alone.said == "boot test: a machine is to boot"
    unproven = {WorkerId("wk-new"): Wellness(is_proven=False)}
    new = member("new", version="2", cordoned=True)
    testing = step(TEST, member("a", 1024), new, wellness=unproven)
    assert testing.rollout == TEST
    assert testing.surge == alone.surge
    assert testing.said == "boot test: wk-new is to run a sandbox"
    passed = step(TEST, member("a", 1024), new)
    assert (passed.rollout.stage, passed.rollout.stage_at) == (RolloutStage.CANARY, NOON)
    # What it did before it took anybody's sandboxes is no part of the time of a canary.
    assert passed.said == "canary: well for 0 of 600 s"


def test_a_version_that_does_not_boot_or_runs_nothing_is_turned_back() -> None:
    failed = [
        Launch(
            LaunchId(f"launch-{number}"),
            "pool/small",
            "2",
            NOON - timedelta(minutes=20),
            state=LaunchState.FAILED,
            failure=LaunchFailure.BROKEN,
        )
        for number in range(2)
    ]
    unbooted = step(TEST, member("a"), launches=failed)
    assert unbooted.rollout.reason == "2 machines of version 2 did not join"
    assert step(TEST, member("a"), launches=failed[:1]).rollout == TEST
    failing = {WorkerId("wk-new"): Wellness(is_proven=False, attempts=5, failed=5)}
    new = member("new", version="2", cordoned=True)
    unwell = step(TEST, member("a"), new, wellness=failing, wanted=2)
    assert "wk-new failed 5 of 5 times" in unwell.rollout.reason
    # It holds nothing and takes nothing, so no other has to come before it goes.
    assert drained(unwell) == ["wk-new"]
    late = replace(TEST, stage_at=NOON - timedelta(seconds=3601))
    assert step(late, member("a")).rollout.reason == "no machine of version 2 ran a sandbox within 3600 s"


def test_when_it_turns_round_the_old_ones_stay_and_the_new_ones_that_boot_are_given_up() -> None:
    back = replace(FLEET, stage=RolloutStage.TURNING_BACK, reason="why")
    going = member("a", 1024, drained_by=DrainOwner.ROLLOUT)
    booting = Launch(LaunchId("launch-1"), "pool/small", "2", NOON)
    plan = step(back, going, member("b"), member("new", version="2"), launches=[booting], wanted=1)
    kept = KeepWorker(WorkerId("wk-a"), DrainOwner.ROLLOUT, "version 1 is wanted after all")
    assert plan.commands[:2] == (
        kept,
        AbandonLaunch(LaunchId("launch-1"), "version 2 is not wanted any more"),
    )
    assert drained(plan) == ["wk-new"]


def test_one_is_called_off_while_it_is_under_way() -> None:
    called_off = cancel_rollout(CANARY, by="key k", now=NOON)
    assert called_off == replace(
        CANARY, stage=RolloutStage.TURNING_BACK, stage_at=NOON, reason="called off by key k"
    )
    assert cancel_rollout(called_off, by="another", now=NOON) == called_off
    done = replace(CANARY, stage=RolloutStage.DONE)
    assert cancel_rollout(done, by="x", now=NOON) == "the roll-out of version 2 has ended: done"


def test_a_canary_comes_beside_the_fleet_and_all_else_stays_of_the_old_version() -> None:
    plan = step(CANARY, member("a", 1024), member("b"))
    assert plan.commands == ()
    assert plan.surge == Surge(1, "2", is_under_way=True, above_max=1)
    assert plan.rollout.base_version == "1"
    assert plan.said == "canary: 0 of 1 have run a sandbox"


def test_a_canary_must_have_been_well_for_a_while() -> None:
    young = member("new", version="2", added_at=NOON - timedelta(seconds=200))
    assert step(CANARY, young).said == "canary: well for 200 of 600 s"
    idle = {WorkerId("wk-new"): Wellness(is_proven=False)}
    waiting = step(CANARY, member("new", version="2"), wellness=idle)
    assert waiting.rollout.stage is RolloutStage.CANARY
    assert step(CANARY, member("a"), member("new", version="2")).rollout.stage is RolloutStage.FLEET


def test_a_canary_that_was_away_must_be_well_for_the_whole_time_again() -> None:
    silent = member("new", version="2", state=WorkerState.SILENT)
    away = step(CANARY, silent).rollout
    assert (away.stage, away.interrupted_at) == (RolloutStage.CANARY, NOON)
    back = member("new", version="2")
    soon, later = NOON + timedelta(seconds=599), NOON + timedelta(seconds=600)
    assert step(away, back, now=soon).rollout.stage is RolloutStage.CANARY
    assert step(away, back, now=later).rollout.stage is RolloutStage.FLEET
    assert Rollout.from_json(away.to_json()) == away


@pytest.mark.parametrize(("heard_s", "stage"), [(30, RolloutStage.FLEET), (31, RolloutStage.CANARY)])
def test_what_was_not_heard_lately_is_not_well_although_its_row_still_says_so(
    heard_s: int, stage: RolloutStage
) -> None:
    """The leader may have been away for longer than the worker, and see its row before anybody marks it."""
    seen = member("new", version="2", last_seen_at=NOON - timedelta(seconds=heard_s))
    assert step(CANARY, seen).rollout.stage is stage
    tested = step(TEST, seen).rollout.stage
    assert tested is (RolloutStage.CANARY if stage is RolloutStage.FLEET else RolloutStage.BOOT_TEST)


def test_nothing_begins_that_could_not_be_turned_round() -> None:
    refusal = begin_rollout("2", "", is_boot_tested=False, now=NOON)
    assert refusal == "no worker has reported yet, so nobody knows which version to go back to"


def test_the_lightest_goes_first_and_only_when_enough_remain() -> None:
    old = (member("heavy", 8192), member("light", 1024))
    alone = step(FLEET, *old)
    assert drained(alone) == []
    assert alone.refused["wk-light"] == "2 workers are healthy, 2 must remain"
    assert alone.surge.workers == 1
    plan = step(FLEET, *old, member("new", version="2"))
    assert drained(plan) == ["wk-light"]
    assert plan.refused == {"wk-heavy": "1 drain already"}
    assert plan.surge == Surge(0, "2", is_under_way=True, above_max=1)


def test_the_next_waits_until_the_new_one_has_run_a_sandbox() -> None:
    idle = {WorkerId("wk-new"): Wellness(is_proven=False)}
    plan = step(FLEET, member("a", 1024), member("b"), member("new", version="2"), wellness=idle)
    assert plan.refused["wk-a"] == "wk-new has not run a sandbox yet"


def test_sandboxes_wait_for_a_machine_of_the_new_version_that_boots() -> None:
    full = member("new", 16384, version="2")
    booting = [Launch(LaunchId("launch-1"), "pool/small", "2", NOON)]
    waits = step(FLEET, member("a", 4096), full, wanted=1, launches=booting)
    assert waits.refused["wk-a"] == "its sandboxes wait for a machine that boots"
    # When nothing boots the drain itself is what makes capacity launch.
    assert drained(step(FLEET, member("a", 4096), full, wanted=1)) == ["wk-a"]


def test_only_its_own_empty_workers_are_removed() -> None:
    empty = member("a", drained_by=DrainOwner.ROLLOUT)
    new = member("new", version="2")
    plan = step(FLEET, empty, new, wanted=1)
    assert plan.commands == (RemoveWorker(WorkerId("wk-a"), "it is empty, version 2 takes its place"),)
    for other in (
        member("a", 1024, drained_by=DrainOwner.ROLLOUT),
        replace(empty, is_proven_empty=False),
        member("a", drained_by=DrainOwner.CAPACITY),
    ):
        assert step(FLEET, other, new, wanted=1).commands == ()


def test_one_that_nobody_can_reach_is_ended_when_nothing_is_promised_there() -> None:
    """It will never say that it is empty, and what would be there has a promise until it says so."""
    back = replace(CANARY, stage=RolloutStage.TURNING_BACK, reason="why")
    away: dict[str, Any] = {"version": "2", "state": WorkerState.UNREACHABLE}
    others = member("a", 1024), member("b")
    bare = replace(member("new", **away), is_proven_empty=False)
    plan = step(back, *others, bare)
    why = "nobody can reach it, nothing is promised there, and version 1 is wanted"
    remove = RemoveWorker(WorkerId("wk-new"), why)
    assert plan.commands == (DrainWorker(WorkerId("wk-new"), DrainOwner.ROLLOUT, why), remove)
    assert step(plan.rollout, *others, replace(bare, drained_by=DrainOwner.ROLLOUT)).commands == (remove,)
    promised = replace(bare, worker=replace(bare.worker, committed=Resources(512, 1, 20480)))
    for kept in (
        member("new", 512, **away),
        promised,
        replace(bare, drained_by=DrainOwner.OPERATOR),
        replace(bare, size="static/own"),
        replace(bare, worker=replace(bare.worker, state=WorkerState.SILENT)),
        replace(bare, worker=replace(bare.worker, worker_version="1")),
    ):
        plan = step(back, *others, kept, sizes=frozenset(["pool/small"]))
        assert not [one for one in plan.commands if isinstance(one, RemoveWorker)]
    frozen = step(back, member("a"), replace(bare, drained_by=DrainOwner.ROLLOUT))
    assert (frozen.commands, frozen.rollout.stage) == ((), RolloutStage.TURNING_BACK)


def test_one_that_is_away_keeps_nobody_from_being_drained() -> None:
    """What forbids its end, a saved state that only it has, is for an operator to judge."""
    away = member("gone", state=WorkerState.UNREACHABLE, drained_by=DrainOwner.ROLLOUT)
    plan = step(FLEET, away, member("a", 1024), member("new", version="2"), wanted=1)
    assert drained(plan) == ["wk-a"]


def test_it_ends_when_none_is_left_and_goes_on_when_one_comes_back() -> None:
    away = member("b", state=WorkerState.UNREACHABLE)
    taken = member("c", 1024, drained_by=DrainOwner.OPERATOR)
    others = [member(name, version="2") for name in "xyz"]
    done = step(FLEET, away, taken, *others)
    assert done.rollout.stage is RolloutStage.DONE
    assert done.surge == Surge(version="2")
    assert step(done.rollout, member("b"), *others).rollout.stage is RolloutStage.FLEET


def test_new_workers_that_fail_turn_it_round() -> None:
    bad = {WorkerId("wk-new"): Wellness(is_proven=True, attempts=10, failed=3)}
    new = member("new", 1024, version="2")
    plan = step(FLEET, member("a", 1024), member("b"), new, wellness=bad)
    assert plan.rollout.stage is RolloutStage.TURNING_BACK
    assert plan.rollout.reason == "1 of 1 workers of version 2 are not well: wk-new failed 3 of 10 times"
    assert plan.rollout.base_version == "1"
    assert drained(plan) == ["wk-new"]
    few = {WorkerId("wk-new"): Wellness(is_proven=True, attempts=4, failed=3)}
    assert step(FLEET, member("a"), new, wellness=few).rollout.stage is RolloutStage.FLEET


def test_what_befalls_all_workers_alike_is_not_the_new_versions_fault() -> None:
    away = {"state": WorkerState.UNREACHABLE}
    plan = step(FLEET, member("a", **away), member("b", **away), member("new", version="2", **away))
    assert plan.rollout == FLEET
    frozen = step(FLEET, member("a"), member("b", **away), member("c", **away), member("new", version="2"))
    assert frozen.commands == ()
    assert frozen.refused["wk-a"] == "frozen: 2 of 4 workers are unhealthy"


def test_a_canary_that_never_comes_turns_it_round() -> None:
    old = replace(CANARY, begun_at=NOON - timedelta(hours=2), stage_at=NOON - timedelta(hours=2))
    plan = step(old, member("a"))
    assert plan.rollout.stage is RolloutStage.TURNING_BACK
    assert plan.commands == ()
    assert plan.rollout.reason == "no canary proved itself within 3600 s"


def test_machines_of_another_pool_and_old_failures_do_not_count() -> None:
    failed = Launch(
        LaunchId("launch-1"),
        "pool/small",
        "2",
        BEGUN - timedelta(hours=1),
        LaunchState.FAILED,
        BEGUN,
        LaunchFailure.BROKEN,
    )
    many = [replace(failed, id=LaunchId(f"launch-{number}")) for number in range(5)]
    own = replace(member("own", 1024), size="static/own")
    new = member("new", version="2")
    plan = step(FLEET, own, new, wanted=1, launches=many, sizes=frozenset(["pool/small"]))
    assert plan.rollout.stage is RolloutStage.DONE
