"""What is decided about a migration, by example."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandfleet.model.move import Course, MoveGround, MovePolicy, MoveSample, Way
from sandfleet.planning.precopy import course, way
from sandfleet.wire.move_messages import MoveLimits
from sandfleet.worker.moves import policy_of

MIB = 1 << 20
POLICY = MovePolicy(
    downtime_ms_max=300, silent_s_max=30, rounds_max=10, throttle_percent_max=80, may_post_copy=True
)
FAST_WRITER = MoveSample(
    round=4,
    elapsed_s=3.0,
    silent_s=0.0,
    transferred_bytes=900 * MIB,
    remaining_bytes=200 * MIB,
    dirty_bytes_per_s=400 * MIB,
    bandwidth_bytes_per_s=100 * MIB,
    downtime_ms_expected=2000.0,
)


@pytest.mark.parametrize(
    ("change", "policy", "may_post_copy", "expected", "said"),
    [
        ({"round": 1}, {}, True, Course.CONTINUE, "round 1, 209715200 bytes are left"),
        ({"round": 1, "downtime_ms_expected": 1.0}, {}, True, Course.CONTINUE, "round 1"),
        (
            {"round": 2, "remaining_bytes": 25 * MIB, "downtime_ms_expected": 250.0},
            {},
            True,
            Course.SWITCH,
            "250 ms are left, 300",
        ),
        ({"dirty_bytes_per_s": 10 * MIB}, {}, True, Course.CONTINUE, "round 4"),
        ({}, {}, True, Course.THROTTLE, "the guest writes 400 MiB/s, 100 MiB/s move"),
        ({"throttle_percent": 80}, {}, True, Course.POST_COPY, "the guest writes 400 MiB/s"),
        ({}, {"may_throttle": False}, True, Course.POST_COPY, "the guest writes 400 MiB/s"),
        ({}, {"may_throttle": False}, False, Course.ABORT, "its memory may not follow it"),
        ({"throttle_percent": 80}, {"may_post_copy": False}, True, Course.ABORT, "may not follow"),
        ({"round": 10}, {}, True, Course.POST_COPY, "not converged in 10 rounds"),
        ({"round": 10}, {}, False, Course.ABORT, "not converged in 10 rounds"),
        ({"silent_s": 30.0}, {}, True, Course.ABORT, "no byte has moved for 30 s"),
    ],
)
def test_course(
    change: dict[str, object],
    policy: dict[str, object],
    may_post_copy: bool,
    expected: Course,
    said: str,
) -> None:
    sample = replace(FAST_WRITER, **change)  # type: ignore[arg-type]
    verdict = course([sample], replace(POLICY, **policy), may_post_copy=may_post_copy)  # type: ignore[arg-type]
    assert verdict.course is expected
    assert said in verdict.reason


def test_the_end_of_a_round_is_not_the_end() -> None:
    """All that was written during the round is found when the next one begins."""
    begun = replace(FAST_WRITER, round=3, dirty_bytes_per_s=0)
    ending = replace(begun, remaining_bytes=MIB, downtime_ms_expected=10.0)
    assert course([begun, ending], POLICY, may_post_copy=True).course is Course.CONTINUE
    next_one = replace(ending, round=4)
    assert course([begun, ending, next_one], POLICY, may_post_copy=True).course is Course.SWITCH


def test_one_round_throttles_once() -> None:
    samples = [FAST_WRITER, replace(FAST_WRITER, elapsed_s=3.5)]
    assert course(samples, POLICY, may_post_copy=True).course is Course.CONTINUE


@pytest.mark.parametrize(
    ("ground", "policy", "expected"),
    [
        (MoveGround(may_run=True, may_post_copy=True), POLICY, Way.PRECOPY),
        (MoveGround(may_run=True, may_post_copy=False), POLICY, Way.PRECOPY),
        (MoveGround(may_run=False, may_post_copy=True), POLICY, Way.POST_COPY),
        (MoveGround(may_run=False, may_post_copy=False), POLICY, Way.STANDING),
        (MoveGround(may_run=False, may_post_copy=True), replace(POLICY, may_post_copy=False), Way.STANDING),
    ],
)
def test_way(ground: MoveGround, policy: MovePolicy, expected: Way) -> None:
    assert way(ground, policy) is expected


def test_unless_it_is_allowed_no_memory_follows_its_guest() -> None:
    assert way(MoveGround(may_run=False, may_post_copy=True), MovePolicy()) is Way.STANDING
    given_up = course([replace(FAST_WRITER, throttle_percent=80)], MovePolicy(), may_post_copy=True)
    assert given_up.course is Course.ABORT
    assert policy_of(MoveLimits()) == MovePolicy()
