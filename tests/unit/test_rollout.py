"""Stories of a roll-out, step by step."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from sandfleet.model.drain import DrainOwner
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.launch import Launch, LaunchFailure, LaunchId, LaunchState
from sandfleet.model.resources import NOTHING, Resources
from sandfleet.model.worker import WorkerState
from sandfleet.planning.fleet import DrainWorker, Member, RemoveWorker, Resident, Surge
from sandfleet.planning.placement import PlacementRequest
from sandfleet.planning.rollout import (
    Rollout,
    RolloutPlan,
    RolloutPolicy,
    RolloutStage,
    RolloutView,
    Wellness,
    begin_rollout,
    step_rollout,
)
from sandfleet.testing.builders import NOON, a_worker

POLICY = RolloutPolicy()
BEGUN = NOON - timedelta(minutes=30)
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
    wellness = proven | view.pop("wellness", {})
    return step_rollout(rollout, RolloutView(members, wanted, wellness=wellness, **view), policy, now=NOON)


def drained(plan: RolloutPlan) -> list[str]:
    return [one.worker_id for one in plan.commands if isinstance(one, DrainWorker)]


def test_what_was_not_boot_tested_does_not_begin() -> None:
    refused = begin_rollout("2", "1", is_boot_tested=False, now=NOON)
    assert refused == "no machine of version 2 has been booted and run a sandbox yet"
    assert begin_rollout("1", "1", is_boot_tested=True, now=NOON) == "the fleet runs version 1 already"
    assert isinstance(begin_rollout("2", "1", is_boot_tested=True, now=NOON), Rollout)


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
