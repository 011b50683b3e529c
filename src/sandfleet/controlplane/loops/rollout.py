"""Brings a new version to every worker, or the old one back: reads, takes one step, writes it down.

The step is `planning/rollout.py`. Nothing is done here: machines are launched by the loop `capacity`, which
is asked for a surge, and drains are carried out by the loop `drain`. The step, its commands and the surge are
one transaction in this leader's term, so the next leader goes on from there. An operator who calls it off
meanwhile is not written over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.loops.fleet_reading import FleetReading
from sandfleet.model.drain import DrainOwner
from sandfleet.model.errors import StaleVersion
from sandfleet.model.ids import WorkerId
from sandfleet.planning.capacity import plan_capacity
from sandfleet.planning.capacity_policy import CapacityPolicy
from sandfleet.planning.fleet import CapacityView, Member
from sandfleet.planning.membership import sizes_as_known
from sandfleet.planning.rollout import step_rollout
from sandfleet.planning.rollout_health import RolloutView, Wellness
from sandfleet.planning.rollout_state import RolloutStage
from sandfleet.ports.fleet_store import FleetDecision
from sandfleet.ports.rollout_store import Proof, StoredRollout

ACTOR = "rollout"
SEEN = timedelta(minutes=15)
"""A worker's wellness is that of so long: what went wrong before is over."""
_TRIALS = (RolloutStage.BOOT_TEST, RolloutStage.CANARY)


LOOK_AGAIN = timedelta(seconds=15)
"""When it is over: a worker of the wrong version may come back."""


@dataclass(slots=True)
class RolloutLoop:
    """The leader's loop; it remembers only that nothing was to be done a moment ago."""

    plane: ControlPlane
    _rests: tuple[StoredRollout, datetime] | None = None

    async def tick(self, *, term: int) -> str:
        """Take one step and write it down."""
        policy, stored = self.plane.capacity, await self.plane.stores.rollouts.current()
        if policy is None:
            return "no machine is launched here, so none is replaced"
        if stored is None:
            return "no other version was asked for"
        now = self.plane.clock.now()
        if self._rests is not None and self._rests[0] == stored and now < self._rests[1]:
            return stored.said
        reading = FleetReading(self.plane)
        capacity = await reading.capacity_view(await reading.known(), stored)
        view = await rollout_view(self.plane, stored, capacity, policy)
        plan = step_rollout(stored.rollout, view, self.plane.rollout, now=now)
        after = stored.after(plan.rollout, actor=ACTOR, surge=plan.surge, said=plan.said)
        if after == stored and not plan.commands:
            self._rests = None if stored.rollout.is_under_way else (stored, now + LOOK_AGAIN)
            return plan.said
        decision = FleetDecision(DrainOwner.ROLLOUT, plan.commands, rollout=after)
        try:
            left_out = await self.plane.stores.fleet.record(decision, term=term)
        except StaleVersion:
            return "it was changed by somebody's word meanwhile"
        return "; ".join([plan.said, *(f"left out: {one.because}" for one in left_out)])


async def rollout_view(
    plane: ControlPlane, stored: StoredRollout, capacity: CapacityView, policy: CapacityPolicy
) -> RolloutView:
    """Return what the planner sees: the fleet, how each worker fares, and how many are wanted."""
    return RolloutView(
        members=capacity.members,
        wanted=await _wanted(plane, capacity, policy),
        launches=capacity.launches,
        wellness=await _wellness_of(plane, capacity.members, stored),
        sizes=frozenset(size.key for size in policy.sizes),
    )


async def _wanted(plane: ControlPlane, view: CapacityView, policy: CapacityPolicy) -> int:
    """Return how many workers capacity wants without a surge, by its own sum."""
    view = replace(view, surge=replace(view.surge, workers=0))
    policy = replace(policy, sizes=sizes_as_known(policy.sizes, view.members))
    memory = await plane.stores.fleet.memory()
    return plan_capacity(view, policy, memory, now=plane.clock.now()).needed.desired


async def _wellness_of(
    plane: ControlPlane, members: Sequence[Member], stored: StoredRollout
) -> Mapping[WorkerId, Wellness]:
    rollouts = plane.stores.rollouts
    proofs = await rollouts.proofs()
    ended = await rollouts.wellness([one.worker.id for one in members], since=SEEN)
    is_trial = stored.rollout.stage in _TRIALS
    return {
        one.worker.id: _wellness(one, proofs.get(one.worker.id), ended.get(one.worker.id), is_trial=is_trial)
        for one in members
    }


def _wellness(member: Member, proof: Proof | None, ended: Wellness | None, *, is_trial: bool) -> Wellness:
    """What lives there shows that a worker can, but the first of a version have to run one of ours."""
    is_proven = proof is not None and proof.proven_at is not None
    return Wellness(
        is_proven=is_proven or (bool(member.residents) and not is_trial),
        attempts=(proof.attempts if proof else 0) + (ended.attempts if ended else 0),
        failed=(proof.failed if proof else 0) + (ended.failed if ended else 0),
    )
