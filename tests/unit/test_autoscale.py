"""Which size a sandbox gets by what it uses, told step by step."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest

from sandfleet.model.organisation import Caps
from sandfleet.model.resources import SizeLimits
from sandfleet.model.scaling import Scaling
from sandfleet.planning.autoscale import (
    AutoscalePolicy,
    Bounds,
    Decision,
    Use,
    Watched,
    bounds_of,
    decide,
    ladder,
    refused,
)
from sandfleet.testing.builders import NOON

POLICY = AutoscalePolicy()
STEPS = (512, 1024, 2048, 4096)
KEPT_MIB = 56
LIMITS = SizeLimits(
    memory_default_mib=1024,
    memory_base_mib=512,
    memory_max_mib=65536,
    memory_block_mib=128,
    disk_default_mib=20480,
    disk_min_mib=20480,
    disk_max_mib=262144,
)


def look(
    watched: Watched, used_mib: int | None, *, at_s: float = 0, steps: Sequence[int] = STEPS
) -> Decision:
    """Decide for a guest that uses so much, so long after noon."""
    use = None if used_mib is None else Use(used_mib, watched.size_mib - KEPT_MIB)
    return decide(steps, use, watched, policy=POLICY, now=noon(at_s))


def noon(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("size_mib", "used_mib", "then_mib", "because"),
    [
        (512, 300, None, "the least"),
        (1024, 300, None, "it uses 300"),
        (512, 400, 1024, "uses 400 of 456"),
        (512, 456, 1024, "uses 456 of 456"),
        (1024, 900, 2048, "uses 900 of 968"),
        (4096, 4000, None, "may not become larger"),
        (300, 10, 512, "less than the least"),
        (6000, 5900, None, "may not become larger"),
    ],
)
def test_what_uses_much_grows_at_once(
    size_mib: int, used_mib: int, then_mib: int | None, because: str
) -> None:
    decision = look(Watched(size_mib), used_mib)
    assert decision.memory_mib == then_mib
    assert because in decision.reason


def test_it_grows_over_several_steps_to_the_first_that_is_not_full_at_once() -> None:
    use = Use(used_mib=1500, allowed_mib=1600)
    decision = decide(STEPS, use, Watched(700), policy=POLICY, now=NOON)
    assert decision.memory_mib == 4096


def test_it_shrinks_by_one_step_after_a_quiet_time_and_waits_anew_for_the_next() -> None:
    watched = look(Watched(4096), 100).watched
    assert look(watched, 100, at_s=POLICY.shrink_after_s - 1).memory_mib is None
    decision = look(watched, 100, at_s=POLICY.shrink_after_s)
    assert decision.memory_mib == 2048
    assert "for 300 s it has used no more than 50% of 1992 MiB, now 100" in decision.reason
    smaller = look(Watched(2048), 100, at_s=POLICY.shrink_after_s + 1)
    assert smaller.memory_mib is None


@pytest.mark.parametrize("disturbance", [1200, None])
def test_a_moment_of_use_and_a_look_that_fails_both_end_the_quiet_time(disturbance: int | None) -> None:
    watched = look(Watched(2048), 100).watched
    watched = look(watched, disturbance, at_s=200).watched
    assert look(watched, 100, at_s=301).memory_mib is None
    watched = look(watched, 100, at_s=301).watched
    assert look(watched, 100, at_s=601).memory_mib == 1024


def test_what_was_refused_is_left_alone_for_a_while() -> None:
    watched = refused(Watched(512), policy=POLICY, at=NOON)
    assert look(watched, 450, at_s=POLICY.retry_after_s - 1).memory_mib is None
    assert look(watched, 450, at_s=POLICY.retry_after_s).memory_mib == 1024


def test_above_the_most_it_comes_down_when_it_can() -> None:
    watched = look(Watched(16384), 900).watched
    assert look(watched, 900, at_s=300).memory_mib == 4096
    assert look(Watched(16384), 3000, at_s=300).watched.quiet_since is None


def test_a_step_without_the_margin_is_not_taken_whatever_its_share() -> None:
    # Half of 256 - 128 is 64: that would be little enough, but leaves no margin of 64 over 65.
    steps = (256, 1024)
    use = Use(used_mib=65, allowed_mib=1024 - 128)
    policy = AutoscalePolicy(shrink_below=0.6)
    watched = decide(steps, use, Watched(1024), policy=policy, now=NOON).watched
    assert watched.quiet_since is None


@pytest.mark.parametrize(
    ("least", "most", "steps"),
    [
        (512, 4096, (512, 1024, 2048, 4096)),
        (512, 512, (512,)),
        (640, 3072, (640, 1280, 2560, 3072)),
        (512, 1000, (512, 1000)),
    ],
)
def test_sizes_are_doubled_between_the_bounds(least: int, most: int, steps: tuple[int, ...]) -> None:
    assert tuple(ladder(Bounds(least, most), block_mib=128)) == steps


@pytest.mark.parametrize(
    ("scaling", "cap_mib", "bounds"),
    [
        (Scaling(), None, (512, 65536)),
        (Scaling(memory_min_mib=1024, memory_max_mib=4096), None, (1024, 4096)),
        (Scaling(memory_min_mib=1024, memory_max_mib=4096), 2100, (1024, 2048)),
        (Scaling(memory_min_mib=4096), 2048, (2048, 2048)),
        (Scaling(), 100, (512, 512)),
        (Scaling(memory_max_mib=10**6), None, (512, 65536)),
    ],
)
def test_bounds_are_the_owners_within_what_the_organisation_may_have(
    scaling: Scaling, cap_mib: int | None, bounds: tuple[int, int]
) -> None:
    assert bounds_of(scaling, LIMITS, Caps(memory_mib=cap_mib)) == Bounds(*bounds)
