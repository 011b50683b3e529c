"""Roll-out of a new version: a few workers first, then the fleet, and back when they are not well.

Rule 1: a version takes sandboxes only after one of its machines was booted and ran one of ours.
Rule 2: room comes first: a worker is drained only when as many healthy ones remain as are wanted, less some.
Rule 3: sandboxes move to workers of the version that is wanted, and to no others.
Rule 4: the lightest worker goes first; nothing is ended that is not empty by its own word. One that nobody
can reach cannot give it: it is ended when nothing is promised there, for a promise stands until that word.
Rule 5: when the new ones are not well the roll-out turns round, and replaces them the same way.
Rule 6: this is a step, from state and view to the next state; repeated after a crash it asks nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sandfleet.model.drain import DrainOwner
from sandfleet.model.ids import WorkerId
from sandfleet.model.launch import LaunchState
from sandfleet.model.worker import WorkerState
from sandfleet.planning.consolidation import lightest_first
from sandfleet.planning.fleet import (
    AbandonLaunch,
    DrainWorker,
    FleetCommand,
    KeepWorker,
    Member,
    RemoveWorker,
    Surge,
    frozen_because,
)
from sandfleet.planning.packing import Packing
from sandfleet.planning.placement import PlacementRequest
from sandfleet.planning.rollout_health import (
    RolloutPolicy,
    RolloutView,
    canary_waits_for,
    is_proven,
    is_well,
    of_version,
    why_unwell,
)
from sandfleet.planning.rollout_state import Rollout, RolloutStage


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """One step: the next state, what to do, and what capacity is asked for."""

    rollout: Rollout
    commands: Sequence[FleetCommand]
    surge: Surge
    said: str
    refused: Mapping[WorkerId, str] = field(default_factory=dict)
    """Why a worker of the wrong version is not drained yet."""


def step_rollout(rollout: Rollout, view: RolloutView, policy: RolloutPolicy, *, now: datetime) -> RolloutPlan:
    """Take one step."""
    rollout = _next_stage(rollout, view, policy, now)
    if rollout.stage is RolloutStage.BOOT_TEST:
        return _boot_test(rollout, view)
    if rollout.stage is RolloutStage.CANARY:
        surge = Surge(policy.canaries, rollout.version, is_under_way=True, above_max=policy.canaries)
        waits_for = canary_waits_for(rollout, view, policy, now) or "well"
        return RolloutPlan(rollout, (), surge, f"canary: {waits_for}")
    return _replace_wrong(rollout, view, policy)


def _next_stage(rollout: Rollout, view: RolloutView, policy: RolloutPolicy, now: datetime) -> Rollout:
    is_forward = rollout.target == rollout.version
    unwell = why_unwell(rollout, view, policy) if is_forward else None
    if unwell is None:
        unwell = _why_too_late(rollout, policy, now)
    if unwell is not None:
        return replace(rollout, stage=RolloutStage.TURNING_BACK, stage_at=now, reason=unwell)
    if rollout.stage is RolloutStage.BOOT_TEST:
        is_passed = any(is_well(one, view, policy, now) for one in of_version(rollout.version, view))
        return replace(rollout, stage=RolloutStage.CANARY, stage_at=now) if is_passed else rollout
    if rollout.stage is RolloutStage.CANARY:
        if any(
            is_proven(one, view) and not is_well(one, view, policy, now)
            for one in of_version(rollout.version, view)
        ):
            return replace(rollout, interrupted_at=now)
        if canary_waits_for(rollout, view, policy, now) is not None:
            return rollout
        return replace(rollout, stage=RolloutStage.FLEET, stage_at=now)
    if frozen_because(view.members) is not None:
        return rollout  # workers that nobody can reach now are not workers that are replaced
    # An end is left again when a worker of the wrong version comes back.
    is_over = not _wrong(rollout, view)
    over = RolloutStage.DONE if is_forward else RolloutStage.TURNED_BACK
    going = RolloutStage.FLEET if is_forward else RolloutStage.TURNING_BACK
    stage = over if is_over else going
    return rollout if stage is rollout.stage else replace(rollout, stage=stage, stage_at=now)


def _why_too_late(rollout: Rollout, policy: RolloutPolicy, now: datetime) -> str | None:
    if (now - rollout.stage_at).total_seconds() <= policy.canary_s_max:
        return None
    if rollout.stage is RolloutStage.BOOT_TEST:
        return f"no machine of version {rollout.version} ran a sandbox within {policy.canary_s_max:.0f} s"
    if rollout.stage is RolloutStage.CANARY:
        return f"no canary proved itself within {policy.canary_s_max:.0f} s"
    return None


def _boot_test(rollout: Rollout, view: RolloutView) -> RolloutPlan:
    """Ask for one machine; it takes nothing of anybody's until it has run a sandbox of ours."""
    tested = [one for one in of_version(rollout.version, view) if not one.is_draining]
    surge = Surge(1, rollout.version, is_under_way=True, above_max=1)
    waits_for = f"{tested[0].worker.id} is to run a sandbox" if tested else "a machine is to boot"
    return RolloutPlan(rollout, (), surge, f"boot test: {waits_for}")


def _replace_wrong(rollout: Rollout, view: RolloutView, policy: RolloutPolicy) -> RolloutPlan:
    """Remove what is empty, drain what may go, and ask for the room that the rest needs."""
    wrong = _wrong(rollout, view)
    ours = _drained_by_us(rollout, view)
    frozen = frozen_because(view.members)
    commands = _called_off(rollout, view)
    if frozen is None:
        commands += _given_up(rollout, view)
        commands += [
            RemoveWorker(one.worker.id, f"it is empty, version {rollout.target} takes its place")
            for one in ours
            if one.may_be_removed
        ]
        commands += _cut_off(rollout, view)
    staying = sorted(
        (one for one in wrong if not one.is_draining),
        key=lambda one: (one.worker.committed.memory_mib, one.worker.id),
    )
    drains, refused = _drains(staying, rollout, view, policy, frozen=frozen)
    commands += drains
    draining = len(ours) + len(drains)
    surge = Surge(
        workers=max(0, min(policy.surge, len(staying) - len(drains)) - draining)
        if rollout.is_under_way
        else 0,
        version=rollout.target,
        is_under_way=rollout.is_under_way,
        above_max=policy.surge if rollout.is_under_way else 0,
    )
    said = f"{rollout.stage}: {len(wrong)} workers still to replace, {draining} of them drain"
    why = frozen or rollout.reason or next(iter(refused.values()), "")
    return RolloutPlan(rollout, tuple(commands), surge, f"{said}; {why}" if why else said, refused)


def _drained_by_us(rollout: Rollout, view: RolloutView) -> Sequence[Member]:
    return [
        one
        for one in view.members
        if one.drained_by is DrainOwner.ROLLOUT
        and one.worker.worker_version != rollout.target
        and not _is_bare_and_away(one)
    ]


def _is_bare_and_away(member: Member) -> bool:
    """Whether nobody can reach it, and nothing of anybody's is there.

    A promise is written down before its VM begins, and taken back only on the worker's own word that nothing
    is left of it: so what has none has no VM of anybody's, whatever runs there.
    """
    is_bare = not member.residents and member.worker.committed.memory_mib == 0
    return is_bare and member.worker.state is WorkerState.UNREACHABLE


def _cut_off(rollout: Rollout, view: RolloutView) -> list[FleetCommand]:
    """End the bare ones of the wrong version that nobody reaches: they never say that they are empty."""
    commands: list[FleetCommand] = []
    for one in view.members:
        is_ours = one.drained_by in (None, DrainOwner.ROLLOUT) and _may_be_replaced(one, view)
        if one.worker.worker_version == rollout.target or not is_ours or not _is_bare_and_away(one):
            continue
        why = f"nobody can reach it, nothing is promised there, and version {rollout.target} is wanted"
        if one.drained_by is None:
            commands.append(DrainWorker(one.worker.id, DrainOwner.ROLLOUT, why))
        commands.append(RemoveWorker(one.worker.id, why))
    return commands


def _called_off(rollout: Rollout, view: RolloutView) -> list[FleetCommand]:
    """Keep those that are wanted after all, since it turned round."""
    return [
        KeepWorker(one.worker.id, DrainOwner.ROLLOUT, f"version {rollout.target} is wanted after all")
        for one in view.members
        if one.drained_by is DrainOwner.ROLLOUT and one.worker.worker_version == rollout.target
    ]


def _given_up(rollout: Rollout, view: RolloutView) -> list[FleetCommand]:
    """Give up machines of the new version that boot while it is not wanted any more."""
    if rollout.target == rollout.version:
        return []
    return [
        AbandonLaunch(one.id, f"version {rollout.version} is not wanted any more")
        for one in view.launches
        if one.state is LaunchState.PENDING and one.version == rollout.version
    ]


def _drains(
    staying: Sequence[Member],
    rollout: Rollout,
    view: RolloutView,
    policy: RolloutPolicy,
    *,
    frozen: str | None,
) -> tuple[list[DrainWorker], dict[WorkerId, str]]:
    """Choose who is drained now, and say of the others why not."""
    budget = _Budget(rollout, view, policy)
    drains: list[DrainWorker] = []
    refused: dict[WorkerId, str] = {}
    for member in staying:
        reason = frozen or budget.refusal(member)
        if reason is None:
            budget.take(member)
            why = f"it runs version {member.worker.worker_version}, {rollout.target} is wanted"
            drains.append(DrainWorker(member.worker.id, DrainOwner.ROLLOUT, why))
        else:
            refused[member.worker.id] = reason
    return drains, refused


class _Budget:
    """What may still be drained in this step."""

    def __init__(self, rollout: Rollout, view: RolloutView, policy: RolloutPolicy) -> None:
        self._view, self._policy, self._target = view, policy, rollout.target
        self._draining = len(_drained_by_us(rollout, view))
        self._healthy = sum(one.takes_more for one in view.members)
        right = [one for one in view.members if one.worker.worker_version == self._target]
        self._unproven = [one for one in right if not one.is_draining and not is_proven(one, view)]
        self._is_room_coming = any(
            one.state is LaunchState.PENDING and one.version == self._target for one in view.launches
        )
        self._packing = Packing((one.worker for one in right if one.takes_more), policy.placement)
        for member in view.members:
            if member.is_draining:
                self._packing.place_all(self._requests(member))

    def refusal(self, member: Member) -> str | None:
        """Say why this one may not be drained now."""
        if member.worker.state is not WorkerState.READY:
            return f"is {member.worker.state}"
        if self._draining >= self._policy.surge:
            return f"{self._draining} drain already"
        if not member.takes_more and not member.residents:
            return None  # nobody is worse off without it
        if self._unproven:
            return f"{self._unproven[0].worker.id} has not run a sandbox yet"
        floor = self._view.wanted - self._policy.missing_max
        if member.takes_more and self._healthy - 1 < floor:
            return f"{self._healthy} workers are healthy, {floor} must remain"
        if not self._fits(member) and self._is_room_coming:
            return "its sandboxes wait for a machine that boots"
        return None

    def take(self, member: Member) -> None:
        """Count this one as draining."""
        self._draining += 1
        self._healthy -= member.takes_more
        self._packing.place_all(self._requests(member))

    def _fits(self, member: Member) -> bool:
        """Where they do not fit capacity is told by the drain itself, and launches what holds them."""
        return self._packing.holds(self._requests(member))

    def _requests(self, member: Member) -> list[PlacementRequest]:
        return [replace(one.request, worker_version=self._target) for one in lightest_first(member.residents)]


def _wrong(rollout: Rollout, view: RolloutView) -> Sequence[Member]:
    """Workers that are to be replaced: not those that nobody can reach, or that an operator takes away."""
    return [
        one
        for one in view.members
        if one.worker.worker_version != rollout.target
        and one.worker.state not in (WorkerState.GONE, WorkerState.UNREACHABLE)
        and one.drained_by is not DrainOwner.OPERATOR
        and _may_be_replaced(one, view)
    ]


def _may_be_replaced(member: Member, view: RolloutView) -> bool:
    return view.sizes is None or member.size in view.sizes
