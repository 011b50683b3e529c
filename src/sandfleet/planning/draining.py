"""Draining: which sandboxes leave a worker next, where each goes, and why the others stay yet.

Rule 1: the lightest goes first: it is the quickest to be gone, and finds a place most easily.
Rule 2: where it goes is decided by placement, on a view that holds what was planned before it.
Rule 3: a sandbox that finds no place holds up none after it; it is told why, and asked about again.
Rule 4: a move that failed is tried again later each time, and elsewhere if there is elsewhere.
Rule 5: of a worker that does not answer nothing is moved, and nothing is concluded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sandfleet.model.drain import Stay, StayReason
from sandfleet.model.ids import WorkerId
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.moving import choose_target
from sandfleet.planning.placement import FleetView, NoPlacement, Placement, PlacementPolicy

RETRY_S = 5.0
RETRY_S_MAX = 300.0
_DOUBLINGS_MAX = 10


@dataclass(frozen=True, slots=True)
class Resident:
    """A sandbox that is on the draining worker still, and what is known of its moves."""

    sandbox: Sandbox
    under_way: str | None = None
    """What else is being done with it; nothing else begins meanwhile."""
    before: Stay | None = None
    """What was known of it the time before; of a move under way, where it goes."""


@dataclass(frozen=True, slots=True)
class DrainPolicy:
    """How many may leave a worker at once, and how many may come to one."""

    moves_at_once: int
    placement: PlacementPolicy
    worker_version: str | None = None
    """A roll-out's drain moves to workers of this version alone."""


@dataclass(frozen=True, slots=True)
class PlannedMove:
    """A sandbox that is to leave now."""

    sandbox: Sandbox
    target: WorkerId
    reason: str


@dataclass(frozen=True, slots=True)
class DrainPlan:
    """What begins now, and what is to be known of all the others."""

    moves: Sequence[PlannedMove]
    stays: Sequence[Stay]


def drain_plan(
    worker: Worker,
    residents: Sequence[Resident],
    view: FleetView,
    policy: DrainPolicy,
    *,
    now: datetime,
    incoming: Mapping[WorkerId, int],
) -> DrainPlan:
    """Plan one round. `incoming`: how many moves of all drains are on their way to each worker."""
    under_way = [_moving(one) for one in residents if one.sandbox.state is SandboxState.MIGRATING]
    round_ = _Round(worker, view, policy, now, Counter(incoming), room=policy.moves_at_once - len(under_way))
    others = [one for one in residents if one.sandbox.state is not SandboxState.MIGRATING]
    for resident in sorted(others, key=_lightest_first):
        round_.consider(resident)
    return DrainPlan(tuple(round_.moves), (*under_way, *round_.stays))


def retry_at(attempts: int, *, now: datetime) -> datetime:
    """Return when a sandbox of which so many moves have failed is moved again."""
    doubled = RETRY_S * 2 ** min(max(0, attempts - 1), _DOUBLINGS_MAX)
    return now + timedelta(seconds=min(doubled, RETRY_S_MAX))


def _lightest_first(resident: Resident) -> tuple[int, str]:
    return resident.sandbox.resources.memory_mib, resident.sandbox.id


def _moving(resident: Resident) -> Stay:
    before = resident.before or Stay(resident.sandbox.id, StayReason.MOVING, "")
    said = f"it moves to {before.target}" if before.target else "it moves"
    return replace(before, reason=StayReason.MOVING, said=said, retry_at=None)


class _Round:
    """The view as it becomes with each move that is planned."""

    def __init__(
        self,
        worker: Worker,
        view: FleetView,
        policy: DrainPolicy,
        now: datetime,
        incoming: Counter[WorkerId],
        *,
        room: int,
    ) -> None:
        self.moves: list[PlannedMove] = []
        self.stays: list[Stay] = []
        self._worker = worker
        self._workers = {one.id: one for one in view.workers}
        self._policy = policy
        self._now = now
        self._incoming = incoming
        self._room = room

    def consider(self, resident: Resident) -> None:
        """Plan its move, or say why it stays."""
        because = self._first_refusal(resident)
        if because is not None:
            self._stay(resident, *because)
            return
        choice = self._choice(resident)
        if isinstance(choice, NoPlacement):
            self._stay(resident, StayReason.HELD, _nowhere(choice))
        elif self._incoming[choice.worker_id] >= self._policy.moves_at_once:
            self._stay(resident, StayReason.WAITING, f"{choice.worker_id} takes others first")
        elif self._room <= 0:
            self._stay(resident, StayReason.WAITING, "others move first")
        else:
            self._move(resident, choice)

    def _first_refusal(self, resident: Resident) -> tuple[StayReason, str] | None:
        state, before = resident.sandbox.state, resident.before
        if resident.sandbox.is_terminal:
            return StayReason.WAITING, "it has ended, and its machine is being cleared away"
        if self._worker.state is not WorkerState.READY:
            return StayReason.HELD, f"{self._worker.id} is {self._worker.state}"
        if state is not SandboxState.RUNNING:
            return StayReason.WAITING, f"it is {state}"
        if resident.under_way is not None:
            return StayReason.WAITING, f"{resident.under_way} is under way"
        if before is not None and before.retry_at is not None and before.retry_at > self._now:
            return StayReason.HELD, before.said
        return None

    def _choice(self, resident: Resident) -> Placement | NoPlacement:
        """Where it would go; where it did not get to comes last."""
        failed = resident.before.target if resident.before and resident.before.attempts else None
        everywhere = FleetView(tuple(self._workers.values()))
        elsewhere = FleetView(tuple(one for one in everywhere.workers if one.id != failed))
        choice = self._target(resident, elsewhere)
        if isinstance(choice, NoPlacement) and failed is not None:
            return self._target(resident, everywhere)
        return choice

    def _target(self, resident: Resident, view: FleetView) -> Placement | NoPlacement:
        version = self._policy.worker_version
        return choose_target(
            resident.sandbox, view, self._policy.placement, wanted=None, worker_version=version
        )

    def _move(self, resident: Resident, choice: Placement) -> None:
        self._room -= 1
        self._incoming[choice.worker_id] += 1
        target = self._workers[choice.worker_id]
        taken = target.committed + resident.sandbox.resources
        self._workers[target.id] = replace(target, committed=taken)
        self.moves.append(PlannedMove(resident.sandbox, target.id, choice.reason))

    def _stay(self, resident: Resident, reason: StayReason, said: str) -> None:
        before = resident.before or Stay(resident.sandbox.id, reason, said)
        self.stays.append(replace(before, reason=reason, said=said, operation_id=None))


def _nowhere(choice: NoPlacement) -> str:
    why = "; ".join(f"{worker} {reason}" for worker, reason in sorted(choice.refusals.items()))
    return f"nobody can take it: {why or 'there is no other worker'}"
