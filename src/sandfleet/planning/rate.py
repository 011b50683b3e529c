"""How fast something may be done: a bucket that fills at a rate and holds one second's worth.

A bucket is known by one number: when it will be full again. It gives as long as it holds at least one;
what is taken may be more than it holds, and the next waits until that is made good. So a fork into a
hundred needs no hundred at once, and counts in full all the same. Times are whole microseconds: sums of
fractions would now and then refuse the last of a second's worth.
"""

from __future__ import annotations

from dataclasses import dataclass

US = 1_000_000
NOTHING_RETRY_S = 60.0
"""When to ask again where nothing is allowed at all: somebody has to change that first."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many a second, at least one; as many may come at once."""

    per_s: int

    @property
    def interval_us(self) -> int:
        """How long the bucket takes for one."""
        return -(-US // self.per_s)

    @property
    def behind_max_us(self) -> int:
        """How far from full it may be and still hold one."""
        return (self.per_s - 1) * self.interval_us


def taken(rate: Rate, full_at_us: int, *, count: int, now_us: int) -> tuple[int, int]:
    """Return when the bucket is full after this, and 0; or as it was, and after how long to ask again."""
    full_at_us = max(full_at_us, now_us)
    wait_us = full_at_us - now_us - rate.behind_max_us
    if wait_us > 0:
        return full_at_us, wait_us
    return full_at_us + count * rate.interval_us, 0
