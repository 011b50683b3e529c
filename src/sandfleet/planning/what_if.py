"""What the planners would do on a view, told as values: nothing is performed.

Every worker that was not chosen is told with the filter that refused it, so an answer explains itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sandfleet.model.ids import WorkerId
from sandfleet.model.worker import Worker
from sandfleet.planning.capacity import CapacityPlan
from sandfleet.planning.consolidation import lightest_first
from sandfleet.planning.fleet import FleetCommand, LaunchMachine, Member
from sandfleet.planning.placement import (
    Candidate,
    FleetView,
    Placement,
    PlacementPolicy,
    PlacementRequest,
    place,
)
from sandfleet.planning.pressure import PressurePlan
from sandfleet.planning.rollout import RolloutPlan

NOT_BEST = "score"
"""The filter of a worker that could take it, and is not the fullest that can."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One command, about whom, where to, and why."""

    command: str
    subject: str
    reason: str
    to: str | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    """A worker that was passed over for a subject; without one, what could not be had at all."""

    subject: str
    worker_id: WorkerId | None
    filter: str
    reason: str


@dataclass(frozen=True, slots=True)
class WhatIf:
    """An answer."""

    summary: str
    decisions: Sequence[Decision] = ()
    rejected: Sequence[Rejection] = ()

    def __add__(self, other: WhatIf) -> WhatIf:
        """Return both, one after the other."""
        return WhatIf(
            f"{self.summary}; {other.summary}",
            (*self.decisions, *other.decisions),
            (*self.rejected, *other.rejected),
        )


def placed(
    wanted: Sequence[tuple[str, PlacementRequest]],
    workers: Sequence[Worker],
    policy: PlacementPolicy,
    *,
    command: str,
) -> WhatIf:
    """Place one after the other, each on what those before it have left."""
    decisions: list[Decision] = []
    rejected: list[Rejection] = []
    here = {worker.id: worker for worker in workers}
    for subject, request in wanted:
        choice = place(request, FleetView(list(here.values())), policy)
        chosen = choice.worker_id if isinstance(choice, Placement) else None
        rejected += [_rejection(subject, one) for one in choice.candidates if one.worker_id != chosen]
        if isinstance(choice, Placement):
            decisions.append(Decision(command, subject, choice.reason, to=choice.worker_id))
            worker = here[choice.worker_id]
            here[worker.id] = replace(worker, committed=worker.committed + request.resources)
        else:
            decisions.append(Decision("wait", subject, "no worker can take it now"))
    found = sum(one.to is not None for one in decisions)
    return WhatIf(f"{command}: {found} of {len(wanted)} find a place", decisions, rejected)


def emptied(
    member: Member, members: Sequence[Member], policy: PlacementPolicy, *, is_removed: bool
) -> WhatIf:
    """Move everything off a worker, the lightest first; `is_removed`: and end its machine."""
    others = [one.worker for one in members if one.worker.id != member.worker.id]
    wanted = [(str(one.sandbox_id), one.request) for one in lightest_first(member.residents)]
    moved = placed(wanted, others, policy, command="move")
    stay = sum(one.to is None for one in moved.decisions)
    name = member.worker.id
    if not is_removed:
        return replace(moved, summary=f"{name}: {len(wanted) - stay} sandboxes move, {stay} stay")
    if stay:
        refused = Rejection(name, name, "residents", f"{stay} of its sandboxes find no place elsewhere")
        return WhatIf(f"{name} stays: {refused.reason}", moved.decisions, (*moved.rejected, refused))
    ended = Decision("remove", name, "everything on it finds a place elsewhere")
    return WhatIf(f"{name} is emptied and goes", (*moved.decisions, ended), moved.rejected)


def sized(plan: CapacityPlan) -> WhatIf:
    """Tell what the planner of capacity has decided."""
    rejected = [
        Rejection(str(name), name, "capacity", why) for name, why in sorted(plan.refused_workers.items())
    ]
    rejected += [Rejection(size, None, "size", why) for size, why in sorted(plan.refused_sizes.items())]
    return WhatIf(plan.summary(), [_told(one) for one in plan.commands], rejected)


def stepped(plan: RolloutPlan) -> WhatIf:
    """Tell what the planner of roll-outs would do next, and why others are not drained yet."""
    rejected = [Rejection(str(name), name, "rollout", why) for name, why in sorted(plan.refused.items())]
    return WhatIf(plan.said, [_told(one) for one in plan.commands], rejected)


def relieved(plan: PressurePlan) -> WhatIf:
    """Tell who would leave hosts that are short of something, and why no more do."""
    decisions = [
        Decision("sleep" if one.target is None else "move", one.sandbox.id, one.reason, to=one.target)
        for one in plan.sheds
    ]
    rejected = [Rejection(str(name), name, "pressure", why) for name, why in sorted(plan.held.items())]
    rejected += [Rejection(str(name), None, "pressure", why) for name, why in sorted(plan.refused.items())]
    return WhatIf(plan.summary(), decisions, rejected)


def _told(command: FleetCommand) -> Decision:
    name = _COMMANDS[type(command).__name__]
    if isinstance(command, LaunchMachine):
        return Decision(name, command.launch_id, command.reason, to=command.size)
    subject = command.launch_id if hasattr(command, "launch_id") else command.worker_id
    return Decision(name, str(subject), command.reason)


_COMMANDS = {
    "LaunchMachine": "launch",
    "AbandonLaunch": "abandon",
    "DrainWorker": "drain",
    "KeepWorker": "keep",
    "RemoveWorker": "remove",
}


def _rejection(subject: str, candidate: Candidate) -> Rejection:
    reason = candidate.reason
    if candidate.refused_by is None:
        reason = f"another is fuller; {reason}"
    return Rejection(subject, candidate.worker_id, candidate.refused_by or NOT_BEST, reason)
