"""How well a new version's workers are: what they are judged by, and the judgement.

Rule 1: a worker is well that was heard of lately and has run a sandbox; silence alone proves nothing.
Rule 2: a fault that the other workers have as well is not the new version's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sandfleet.model.ids import WorkerId
from sandfleet.model.launch import Launch, LaunchFailure, LaunchState
from sandfleet.model.worker import WorkerState
from sandfleet.planning.fleet import Member
from sandfleet.planning.placement import PlacementPolicy
from sandfleet.planning.rollout_state import Rollout, RolloutStage


@dataclass(frozen=True, slots=True)
class RolloutPolicy:
    """Budgets and gates."""

    canaries: int = 1
    canary_s: float = 600.0
    """How long the first ones must have been well, without a break."""
    heard_s: float = 30.0
    """A worker is well that was heard within this, whatever its row still says."""
    canary_s_max: float = 3600.0
    """Within this they must have shown it; the boot test has as long for itself."""
    surge: int = 1
    """How many workers there may be above the usual number; as many are drained at once."""
    missing_max: int = 0
    """How many healthy workers may be missing from the number that the fleet needs."""
    unwell_share_max: float = 0.2
    """Of the new workers."""
    failed_share_max: float = 0.2
    """Of what is begun on a new worker."""
    attempts_min: int = 5
    broken_launches_max: int = 2
    """So many machines of the new version may fail to join; of the boot test's one less."""
    placement: PlacementPolicy = field(default_factory=PlacementPolicy)


@dataclass(frozen=True, slots=True)
class Wellness:
    """How sandboxes fare on one worker since it joined."""

    is_proven: bool
    """A sandbox was started on it and did what it was told."""
    attempts: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class RolloutView:
    """The fleet, and how many workers capacity wants without a surge."""

    members: Sequence[Member]
    wanted: int
    launches: Sequence[Launch] = ()
    wellness: Mapping[WorkerId, Wellness] = field(default_factory=dict)
    sizes: frozenset[str] | None = None
    """Machines of which sizes can be replaced; None for all."""


def of_version(version: str, view: RolloutView) -> Sequence[Member]:
    """Return the workers of a version."""
    return [one for one in view.members if one.worker.worker_version == version]


def is_well(member: Member, view: RolloutView, policy: RolloutPolicy, now: datetime) -> bool:
    """Whether a worker was heard of lately and has run a sandbox."""
    worker = member.worker
    heard = worker.last_seen_at is None or (now - worker.last_seen_at).total_seconds() <= policy.heard_s
    return heard and worker.state is WorkerState.READY and is_proven(member, view)


def why_unwell(rollout: Rollout, view: RolloutView, policy: RolloutPolicy) -> str | None:
    """Say what is wrong with the new version; faults that the old one has as well are not its own."""
    broken = [
        one
        for one in view.launches
        if one.version == rollout.version
        and one.state is LaunchState.FAILED
        and one.failure is LaunchFailure.BROKEN
        and one.requested_at >= rollout.begun_at
    ]
    is_test = rollout.stage is RolloutStage.BOOT_TEST
    if len(broken) > policy.broken_launches_max - is_test:
        return f"{len(broken)} machines of version {rollout.version} did not join"
    new = of_version(rollout.version, view)
    others = [one for one in view.members if one.worker.worker_version != rollout.version]
    unwell = [one for one in new if _unwell(one, view, policy) is not None]
    share, share_before = _share(len(unwell), len(new)), _share(_away(others), len(others))
    if share <= policy.unwell_share_max or share <= share_before:
        return None
    named = f"{unwell[0].worker.id} {_unwell(unwell[0], view, policy)}"
    return f"{len(unwell)} of {len(new)} workers of version {rollout.version} are not well: {named}"


def _unwell(member: Member, view: RolloutView, policy: RolloutPolicy) -> str | None:
    if member.worker.state is WorkerState.UNREACHABLE:
        return "is unreachable"
    seen = view.wellness.get(member.worker.id)
    if seen is None or seen.attempts < policy.attempts_min:
        return None
    if seen.failed <= policy.failed_share_max * seen.attempts:
        return None
    return f"failed {seen.failed} of {seen.attempts} times"


def canary_waits_for(rollout: Rollout, view: RolloutView, policy: RolloutPolicy, now: datetime) -> str | None:
    """Say what the first workers have still to show; None when they have shown it."""
    well = [one for one in of_version(rollout.version, view) if is_well(one, view, policy, now)]
    if len(well) < policy.canaries:
        return f"{len(well)} of {policy.canaries} have run a sandbox"
    since = max(sorted(one.added_at for one in well)[policy.canaries - 1], rollout.stage_at)
    since = max(since, rollout.interrupted_at or since)
    age_s = (now - since).total_seconds()
    return None if age_s >= policy.canary_s else f"well for {age_s:.0f} of {policy.canary_s:.0f} s"


def is_proven(member: Member, view: RolloutView) -> bool:
    """Whether a sandbox was started on a worker and did what it was told."""
    seen = view.wellness.get(member.worker.id)
    return seen is not None and seen.is_proven


def _away(members: Sequence[Member]) -> int:
    return sum(one.worker.state is WorkerState.UNREACHABLE for one in members)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
