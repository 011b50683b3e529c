"""What a run comes to, in figures. What was refused is counted as well as what went well."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sandfleet.testing.virtual_fleet.run import Round, Run

THRASH_S = 1800.0
"""A machine that is launched so soon after one was removed need not have been removed."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Means are over the rounds, so over time."""

    hours: float
    sandboxes_placed: int
    sandboxes_at_once_max: int
    refused: int
    """Waited longer than a create may."""
    waited: int
    wait_s_p50: float
    wait_s_p99: float
    workers_mean: float
    workers_max: int
    utilisation: float
    """Promised memory of all memory."""
    packing: float
    """The least number of workers that could hold what lives, of those that hold something."""
    fragmentation: float
    """Of the free memory on workers that hold something: in pieces too small for the usual sandbox."""
    launches: int
    removals: int
    thrash: int
    """Launches within 30 minutes after a removal, each removal counted for one launch."""
    migrations: int
    migrated_gib: float
    drains: int
    drains_called_off: int
    cost: float
    cost_least: float
    """What the least number of workers would have cost."""
    placements_per_s: float
    """Of real time, decision and reservation."""

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)


def figures(done: Run, *, round_s: float) -> Figures:
    """Sum a run up."""
    rounds, tally = done.rounds, done.fleet.tally
    size = done.fleet.policy.sizes[0]
    round_h = round_s / 3600
    least = [lower_bound(one, size.resources.memory_mib) for one in rounds]
    free = sum(one.occupied_capacity_mib - one.promised_mib for one in rounds)
    waits = sorted(tally.waits_s)
    return Figures(
        hours=len(rounds) * round_h,
        sandboxes_placed=tally.placed,
        sandboxes_at_once_max=max((one.sandboxes for one in rounds), default=0),
        refused=tally.refused,
        waited=len(waits),
        wait_s_p50=_rank(waits, 0.50),
        wait_s_p99=_rank(waits, 0.99),
        workers_mean=_mean(one.workers for one in rounds),
        workers_max=max((one.workers for one in rounds), default=0),
        utilisation=_of(sum(one.promised_mib for one in rounds), sum(one.capacity_mib for one in rounds)),
        packing=_of(sum(least), sum(one.occupied for one in rounds)),
        fragmentation=_of(sum(one.unusable_mib for one in rounds), free),
        launches=len(tally.launched_at_s),
        removals=len(tally.removed_at_s),
        thrash=thrash(tally.launched_at_s, tally.removed_at_s),
        migrations=tally.migrations,
        migrated_gib=tally.migrated_mib / 1024,
        drains=tally.drains,
        drains_called_off=tally.drains_called_off,
        cost=sum(one.price_per_hour for one in rounds) * round_h,
        cost_least=sum(least) * size.price_per_hour * round_h,
        placements_per_s=_of(tally.decisions, tally.placing_s),
    )


def lower_bound(one: Round, worker_mib: int) -> int:
    """Return with how many workers of this size nobody could do with fewer."""
    return math.ceil(one.promised_mib / worker_mib)


def thrash(launched_at_s: Sequence[float], removed_at_s: Sequence[float]) -> int:
    """Count the launches that came within half an hour of a removal."""
    removals = sorted(removed_at_s)
    count = next_removal = 0
    for at_s in sorted(launched_at_s):
        while next_removal < len(removals) and removals[next_removal] < at_s - THRASH_S:
            next_removal += 1
        if next_removal < len(removals) and removals[next_removal] <= at_s:
            count += 1
            next_removal += 1
    return count


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known) if known else 0.0


def _of(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _rank(ordered: Sequence[float], share: float) -> float:
    """The nearest rank."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0
