"""Traces made from a seed: sizes and lifetimes as agents' sandboxes have them, load that comes and goes.

Most sandboxes are of the usual size and live for minutes; a few are large, a few stay for
hours. The rate of arrivals swings once per period, so that a fleet has to grow and to shrink.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from sandfleet.testing.virtual_fleet.trace import Arrival

SIZES_MIB = (1024, 2048, 4096, 8192, 16384)
SHARES = (10, 15, 55, 15, 5)
MEMORY_MIB_MEAN = sum(size * share for size, share in zip(SIZES_MIB, SHARES, strict=True)) / sum(SHARES)
_MEMORY_PER_CPU_MIB = 4096
_LOGNORMAL_SIGMA = 1.2
_LIFETIME_S_LEAST = 20.0


@dataclass(frozen=True, slots=True)
class Load:
    """What a generated trace is like."""

    sandboxes: int
    """How many live at the same time, in the mean."""
    hours: float
    swing: float = 0.5
    """By which part of the mean the rate rises and falls."""
    period_s: float = 3 * 3600.0
    lifetime_s_mean: float = 1200.0
    organisations: int = 20


def generated(load: Load, *, seed: int) -> Sequence[Arrival]:
    """Return the arrivals in order. The first `sandboxes` are there from the beginning."""
    dice = random.Random(seed)
    arrivals = [_arrival(load, dice, number, 0.0) for number in range(load.sandboxes)]
    rate_mean = load.sandboxes / load.lifetime_s_mean
    rate_max = rate_mean * (1 + load.swing)
    now_s = 0.0
    while rate_max > 0:
        # Thinning: of arrivals at the highest rate as many are kept as the rate of their time asks for.
        now_s += dice.expovariate(rate_max)
        if now_s >= load.hours * 3600:
            break
        rate = rate_mean * (1 + load.swing * math.sin(2 * math.pi * now_s / load.period_s))
        if dice.random() * rate_max <= rate:
            arrivals.append(_arrival(load, dice, len(arrivals), now_s))
    return arrivals


def _arrival(load: Load, dice: random.Random, number: int, at_s: float) -> Arrival:
    (memory_mib,) = dice.choices(SIZES_MIB, SHARES)
    # The mean of a lognormal lies above its median by this factor.
    median_s = load.lifetime_s_mean / math.exp(_LOGNORMAL_SIGMA**2 / 2)
    lifetime_s = max(_LIFETIME_S_LEAST, dice.lognormvariate(math.log(median_s), _LOGNORMAL_SIGMA))
    return Arrival(
        at_s=round(at_s, 3),
        id=f"sb-{number:07}",
        memory_mib=memory_mib,
        lifetime_s=round(lifetime_s, 3),
        cpu_count=max(1, memory_mib // _MEMORY_PER_CPU_MIB),
        organisation=f"org-{dice.randrange(load.organisations)}",
    )
