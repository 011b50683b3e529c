"""Precopy: does a migration converge, and what shall be done about one that does not.

Rule 1: silence ends it, not the clock: a large guest on a slow link may take its time.
Rule 2: rounds are counted, and each is bounded by the guest's memory: so it ends, one way or another.
Rule 3: what does not converge is first slowed down, then followed by its memory, then left where it is.
Rule 4: a guest that stands still for longer than the budget is worse than one that does not move.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from sandfleet.model.move import Course, MoveGround, MovePolicy, MoveSample, MoveVerdict, Way

ROUNDS_PATIENT = 3
"""The first rounds say little: the first copies everything, the second what was written during it."""
SHARE_KEPT_UP = 0.8
"""A guest that writes more than this share of the bandwidth is not caught up with in a few rounds."""


def way(ground: MoveGround, policy: MovePolicy) -> Way:
    """Return how a guest travels.

    A guest whose writes QEMU would lose track of stands still from the beginning.
    """
    if ground.may_run:
        return Way.PRECOPY
    return Way.POST_COPY if ground.may_post_copy and policy.may_post_copy else Way.STANDING


def course(samples: Sequence[MoveSample], policy: MovePolicy, *, may_post_copy: bool) -> MoveVerdict:
    """Return what shall happen next, from all samples so far, the newest last."""
    now = samples[-1]
    if now.silent_s >= policy.silent_s_max:
        return MoveVerdict(Course.ABORT, f"no byte has moved for {now.silent_s:.0f} s")
    if now.round > 1 and (downtime_ms := _downtime_ms(samples)) <= policy.downtime_ms_max:
        return MoveVerdict(
            Course.SWITCH, f"{downtime_ms:.0f} ms are left, {policy.downtime_ms_max} ms are allowed"
        )
    if now.round >= policy.rounds_max:
        return _instead(policy, may_post_copy, f"not converged in {now.round} rounds")
    if now.round <= ROUNDS_PATIENT or _keeps_up(now):
        return MoveVerdict(Course.CONTINUE, f"round {now.round}, {now.remaining_bytes} bytes are left")
    if any(sample.round == now.round for sample in samples[:-1]):
        return MoveVerdict(Course.CONTINUE, f"round {now.round} is under way")
    if policy.may_throttle and now.throttle_percent < policy.throttle_percent_max:
        return MoveVerdict(Course.THROTTLE, _too_fast(now))
    return _instead(policy, may_post_copy, _too_fast(now))


def _downtime_ms(samples: Sequence[MoveSample]) -> float:
    """For how long the guest would stand still, from now on.

    What is left says little: near the end of a round it is nothing, and all that was written meanwhile is
    found when the next one begins. So it is taken for as much as this round began with.
    """
    now = samples[-1]
    if not now.bandwidth_bytes_per_s:
        return now.downtime_ms_expected
    of_round = takewhile(lambda sample: sample.round == now.round, reversed(samples))
    found_bytes = max(sample.remaining_bytes for sample in of_round)
    return max(now.downtime_ms_expected, 1000 * found_bytes / now.bandwidth_bytes_per_s)


def _keeps_up(now: MoveSample) -> bool:
    return now.dirty_bytes_per_s < SHARE_KEPT_UP * now.bandwidth_bytes_per_s


def _too_fast(now: MoveSample) -> str:
    return (
        f"the guest writes {now.dirty_bytes_per_s >> 20} MiB/s, {now.bandwidth_bytes_per_s >> 20} MiB/s move"
    )


def _instead(policy: MovePolicy, may_post_copy: bool, reason: str) -> MoveVerdict:
    if policy.may_post_copy and may_post_copy:
        return MoveVerdict(Course.POST_COPY, reason)
    return MoveVerdict(Course.ABORT, f"{reason}, and its memory may not follow it")
