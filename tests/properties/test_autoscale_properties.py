"""Whatever a sandbox uses, its size follows within its bounds, and comes to rest when the use does."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from sandfleet.planning.autoscale import (
    FLOOR_MARGIN_MIB,
    AutoscalePolicy,
    Bounds,
    Decision,
    Use,
    Watched,
    decide,
    ladder,
)
from sandfleet.testing.builders import NOON

BLOCK_MIB = 128
LOOK_EVERY_S = 60.0
sizes = st.integers(4, 512).map(lambda blocks: blocks * BLOCK_MIB)
bounds = st.tuples(sizes, sizes).map(lambda pair: Bounds(min(pair), max(pair)))
policies = st.tuples(st.floats(0.1, 0.9), st.floats(0.02, 0.5)).map(
    lambda pair: AutoscalePolicy(grow_above=pair[0] + 0.1, shrink_below=max(0.01, pair[0] - pair[1]))
)


@dataclass(slots=True)
class Guest:
    """A guest that keeps a part of its memory to itself, and gets whatever size is decided."""

    bounds: Bounds
    policy: AutoscalePolicy
    size_mib: int
    now_s: float = 0.0
    watched: Watched | None = None

    @property
    def allowed_mib(self) -> int:
        """Return what its users may have, as workers count it."""
        return self.size_mib - min(96, self.size_mib * 11 // 100)

    def look(self, wanted_mib: int | None) -> Decision:
        """Decide once; it uses what it wants as far as it has it, or does not answer."""
        steps = ladder(self.bounds, block_mib=BLOCK_MIB)
        use = None if wanted_mib is None else Use(min(wanted_mib, self.allowed_mib), self.allowed_mib)
        watched = self.watched
        if watched is None or watched.size_mib != self.size_mib:
            watched = Watched(self.size_mib)
        now = NOON + timedelta(seconds=self.now_s)
        decision = decide(steps, use, watched, policy=self.policy, now=now)
        self.watched = decision.watched
        self.now_s += LOOK_EVERY_S
        if decision.memory_mib is not None:
            self._check(decision.memory_mib, use)
            self.size_mib = decision.memory_mib
        return decision

    def _check(self, chosen_mib: int, use: Use | None) -> None:
        assert self.bounds.memory_min_mib <= chosen_mib <= self.bounds.memory_max_mib
        assert chosen_mib in ladder(self.bounds, block_mib=BLOCK_MIB)
        assert chosen_mib != self.size_mib
        if chosen_mib < self.size_mib:
            assert use is not None
            before, self.size_mib = self.size_mib, chosen_mib
            assert use.used_mib + FLOOR_MARGIN_MIB <= self.allowed_mib
            self.size_mib = before


@given(bounds, policies, sizes, st.lists(st.none() | st.integers(0, 70_000), max_size=40))
def test_every_size_that_is_chosen_lies_within_the_bounds_and_above_what_is_used(
    within: Bounds, policy: AutoscalePolicy, size_mib: int, wanted: list[int | None]
) -> None:
    guest = Guest(within, policy, size_mib)
    for amount in wanted:
        guest.look(amount)


@given(bounds, policies, sizes, st.integers(0, 70_000))
def test_under_equal_use_it_goes_one_way_and_comes_to_rest(
    within: Bounds, policy: AutoscalePolicy, size_mib: int, used_mib: int
) -> None:
    guest = Guest(within, policy, size_mib)
    chosen = [size_mib]
    # Ten steps down at the most, each after a quiet time, which is five looks long.
    for _ in range(100):
        if (decided := guest.look(used_mib).memory_mib) is not None:
            chosen.append(decided)
    changes = [after - before for before, after in itertools.pairwise(chosen)]
    brought_in = size_mib < within.memory_min_mib
    assert all(change > 0 for change in changes) or all(change < 0 for change in changes[brought_in:])
    assert [guest.look(used_mib).memory_mib for _ in range(10)] == [None] * 10


@given(bounds, sizes, st.integers(0, 70_000))
def test_what_is_used_fits_in_the_end_unless_it_is_more_than_may_be(
    within: Bounds, size_mib: int, used_mib: int
) -> None:
    guest = Guest(within, AutoscalePolicy(), size_mib)
    for _ in range(12):
        guest.look(used_mib)
    assert used_mib <= guest.allowed_mib or guest.size_mib >= within.memory_max_mib


@given(bounds, policies, sizes, st.integers(0, 70_000), st.integers(1, 4))
def test_nothing_shrinks_before_the_quiet_time_is_over(
    within: Bounds, policy: AutoscalePolicy, size_mib: int, used_mib: int, looks: int
) -> None:
    guest = Guest(within, policy, size_mib)
    for _ in range(looks):
        before = guest.size_mib
        guest.look(used_mib)
        assert guest.size_mib >= before
