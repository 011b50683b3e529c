"""Machines that carry the fleet's tag and belong to no launch: reported first, ended later.

Rule 1: what is young is left alone: its launch may be about to be told its name.
Rule 2: what is ended was reported before, for as long as the policy says, without a break.
Rule 3: only a list of all machines says anything, and only about the pool that it is of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sandfleet.model.launch import Launch
from sandfleet.model.machine import Machine, MachineState


@dataclass(frozen=True, slots=True)
class OrphanPolicy:
    """How long each is left."""

    age_s_min: float = 900.0
    reported_s_min: float = 600.0


@dataclass(frozen=True, slots=True)
class Orphans:
    """What of one pool to report, since when each is known, and what to end."""

    seen: Mapping[str, datetime]
    """Those that no launch owns, each with the time since which it is reported."""
    ending: Sequence[Machine]


def find_orphans(
    machines: Sequence[Machine],
    launches: Sequence[Launch],
    seen: Mapping[str, datetime],
    policy: OrphanPolicy,
    *,
    now: datetime,
) -> Orphans:
    """Compare a pool's machines with the launches that stand. `seen`: of that pool, from the time before."""
    found = [one for one in machines if _is_orphan(one, launches, policy, now)]
    since = {one.id: seen.get(one.id, now) for one in found}
    ending = [one for one in found if (now - since[one.id]).total_seconds() >= policy.reported_s_min]
    return Orphans(since, ending)


def _is_orphan(machine: Machine, launches: Sequence[Launch], policy: OrphanPolicy, now: datetime) -> bool:
    if machine.state is MachineState.ENDING:
        return False
    is_young = (now - machine.launched_at).total_seconds() < policy.age_s_min
    return not is_young and not any(one.owns(machine.id, machine.launch_id) for one in launches)
