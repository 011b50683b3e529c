"""What carries the fleet's tag and belongs to no launch, machines and parts: reported first, ended later.

Rule 1: what is young is left alone: its launch may be about to be told its name.
Rule 2: what is ended was reported before, for as long as the policy says, without a break.
Rule 3: only a list of all machines says anything, and only about the pool that it is of.
Rule 4: a part whose age the pool does not say is as old as the report of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sandfleet.model.launch import Launch
from sandfleet.model.machine import Machine, MachinePart, MachineState, PartKind


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


PartName = tuple[PartKind, str]


@dataclass(frozen=True, slots=True)
class OrphanParts:
    """The same of parts that nothing holds."""

    seen: Mapping[PartName, datetime]
    removing: Sequence[MachinePart]


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


def find_orphan_parts(
    parts: Sequence[MachinePart],
    launches: Sequence[Launch],
    seen: Mapping[PartName, datetime],
    policy: OrphanPolicy,
    *,
    now: datetime,
) -> OrphanParts:
    """Compare a pool's parts that nothing holds with the launches that stand."""
    # A launch has its parts until its machine is gone, also before that machine has a name.
    owners = {one.id for one in launches if one.gone_at is None}
    found = [one for one in parts if one.launch_id not in owners and _age_s(one, now) >= policy.age_s_min]
    since = {(one.kind, one.id): seen.get((one.kind, one.id), now) for one in found}

    def is_due(part: MachinePart) -> bool:
        grace_s = policy.reported_s_min + (policy.age_s_min if part.made_at is None else 0.0)
        return (now - since[part.kind, part.id]).total_seconds() >= grace_s

    return OrphanParts(since, [one for one in found if is_due(one)])


def _age_s(part: MachinePart, now: datetime) -> float:
    return float("inf") if part.made_at is None else (now - part.made_at).total_seconds()
