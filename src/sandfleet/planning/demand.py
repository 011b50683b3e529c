"""What the fleet was asked for over the last while: where it leads, and how high it stood.

One sample stands for the highest demand of its interval, so that a burst between two
ticks is not forgotten, and the number of samples has a bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

INTERVAL = timedelta(seconds=15)
KEPT = timedelta(minutes=30)
_TREND_SAMPLES_MIN = 4


@dataclass(frozen=True, slots=True)
class Demand:
    """Promised and waited-for memory at one time."""

    at: datetime
    memory_mib: int


@dataclass(frozen=True, slots=True)
class DemandHistory:
    """Samples, oldest first."""

    samples: Sequence[Demand] = ()

    def with_sample(self, memory_mib: int, *, now: datetime) -> DemandHistory:
        """Return the history after one more look."""
        kept = [one for one in self.samples if now - one.at < KEPT]
        if kept and now - kept[-1].at < INTERVAL:
            kept[-1] = Demand(kept[-1].at, max(kept[-1].memory_mib, memory_mib))
        else:
            kept.append(Demand(now, memory_mib))
        return DemandHistory(tuple(kept))

    def peak_mib(self, *, within_s: float, now: datetime) -> int:
        """Return the highest demand of the last seconds."""
        since = now - timedelta(seconds=within_s)
        return max((one.memory_mib for one in self.samples if one.at >= since), default=0)

    def growth_mib(self, *, horizon_s: float, trend_s: float, now: datetime) -> int:
        """Return by how much demand will have risen after `horizon_s` if it goes on as it did.

        It goes on if it rose in both halves of the last `trend_s`: a step is no trend. Below a
        height that was reached earlier it is not foreseen to rise above that: it comes and goes.
        """
        recent = [one for one in self.samples if (now - one.at).total_seconds() <= trend_s]
        if len(recent) < _TREND_SAMPLES_MIN:
            return 0
        half = len(recent) // 2
        slope = min(_slope(recent), _slope(recent[: half + 1]), _slope(recent[half:]))
        growth = max(0, int(slope * horizon_s))
        before = max((one.memory_mib for one in self.samples[: -len(recent)]), default=0)
        last = recent[-1].memory_mib
        return growth if last > before else min(growth, before - last)

    def to_json(self) -> list[list[Any]]:
        """Return it as JSON."""
        return [[one.at.isoformat(), one.memory_mib] for one in self.samples]

    @classmethod
    def from_json(cls, value: Sequence[Sequence[Any]]) -> DemandHistory:
        """Return what `to_json` wrote."""
        return cls(tuple(Demand(datetime.fromisoformat(at), memory_mib) for at, memory_mib in value))


def _slope(samples: Sequence[Demand]) -> float:
    """Return the rise in MiB for each second, counted by the share of the movement that it explains."""
    times = [(one.at - samples[0].at).total_seconds() for one in samples]
    amounts = [float(one.memory_mib) for one in samples]
    time_mean, amount_mean = sum(times) / len(times), sum(amounts) / len(amounts)
    together = sum((t - time_mean) * (a - amount_mean) for t, a in zip(times, amounts, strict=True))
    time_spread = sum((t - time_mean) ** 2 for t in times)
    amount_spread = sum((a - amount_mean) ** 2 for a in amounts)
    if together <= 0 or amount_spread == 0:
        return 0.0
    return together / time_spread * together**2 / (time_spread * amount_spread)
