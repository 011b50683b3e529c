"""Whatever a guest does, its migration ends, by a course that the policy allows."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sandfleet.model.move import Course, MoveGround, MovePolicy, MoveSample, Way
from sandfleet.planning.precopy import course, way

MIB = 1 << 20
policies = st.builds(
    MovePolicy,
    downtime_ms_max=st.integers(10, 1000),
    silent_s_max=st.floats(1, 60),
    rounds_max=st.integers(2, 30),
    may_throttle=st.booleans(),
    throttle_percent_max=st.integers(0, 99),
    may_post_copy=st.booleans(),
)
rates = st.lists(st.integers(0, 4000), min_size=1, max_size=40)


@given(policies, rates, st.integers(1, 1000), st.integers(64, 65536), st.booleans())
def test_it_always_ends_by_an_allowed_course(
    policy: MovePolicy, dirty: list[int], bandwidth: int, memory: int, may_post_copy: bool
) -> None:
    """A simulated guest whose write rate changes from round to round; `bandwidth` in MiB/s."""
    samples: list[MoveSample] = []
    left, elapsed, throttle = memory * MIB, 0.0, 0
    for number in range(1, policy.rounds_max + 2):
        rate = dirty[number % len(dirty)] * MIB * (100 - throttle) // 100
        samples.append(
            MoveSample(
                round=number,
                elapsed_s=elapsed,
                silent_s=0.0,
                transferred_bytes=0,
                remaining_bytes=left,
                dirty_bytes_per_s=rate,
                bandwidth_bytes_per_s=bandwidth * MIB,
                downtime_ms_expected=1000 * left / (bandwidth * MIB),
                throttle_percent=throttle,
            )
        )
        verdict = course(samples, policy, may_post_copy=may_post_copy)
        assert verdict.reason
        if verdict.course is Course.THROTTLE:
            assert policy.may_throttle
            assert throttle < policy.throttle_percent_max
            throttle = min(policy.throttle_percent_max, throttle + 20)
        elif verdict.course is not Course.CONTINUE:
            break
        took = left / (bandwidth * MIB)
        elapsed += took
        left = min(memory * MIB, int(rate * took))
    else:
        raise AssertionError("it never ends")
    if verdict.course is Course.POST_COPY:
        assert policy.may_post_copy
        assert may_post_copy
    if verdict.course is Course.SWITCH:
        assert samples[-1].downtime_ms_expected <= policy.downtime_ms_max


@given(policies, st.integers(1, 40), st.integers(0, 1 << 40), st.booleans())
def test_silence_ends_it_in_every_round(
    policy: MovePolicy, number: int, left: int, may_post_copy: bool
) -> None:
    silent = MoveSample(
        round=number,
        elapsed_s=1e6,
        silent_s=policy.silent_s_max,
        transferred_bytes=1,
        remaining_bytes=left,
        dirty_bytes_per_s=0,
        bandwidth_bytes_per_s=1,
        downtime_ms_expected=0,
    )
    assert course([silent], policy, may_post_copy=may_post_copy).course is Course.ABORT
    lively = replace(silent, silent_s=0.0, round=1)
    assert course([lively], policy, may_post_copy=may_post_copy).course is Course.CONTINUE


@given(policies, st.booleans(), st.booleans())
def test_a_guest_whose_writes_are_not_seen_never_runs_while_it_is_copied(
    policy: MovePolicy, may_run: bool, may_post_copy: bool
) -> None:
    chosen = way(MoveGround(may_run, may_post_copy), policy)
    assert (chosen is Way.PRECOPY) == may_run
    if chosen is Way.POST_COPY:
        assert policy.may_post_copy
        assert may_post_copy
