"""Draining: which sandboxes leave a worker next, where each goes, and why the others stay yet.

Rule 1: the lightest goes first: it is the quickest to be gone, and finds a place most easily.
Rule 2: where it goes is decided by placement, on a view that holds what was planned before it.
Rule 3: a sandbox that finds no place holds up none after it; it is told why, and asked about again.
Rule 4: a move that failed is tried again later each time, and elsewhere if there is elsewhere.
Rule 5: of a worker that does not answer nothing is moved, and nothing is concluded.
Rule 6: shortly before the deadline what cannot leave at once is put to sleep, durably, if that may be.
Rule 7: where its host ends at the deadline, what would not be asleep by then has a checkpoint taken of it.
Rule 8: at the deadline a worker that is not empty is stuck: somebody is told, and the rest goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sandfleet.model.drain import Drain, DrainState, Stay, StayReason
from sandfleet.model.ids import WorkerId
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.moving import choose_target, held_resources
from sandfleet.planning.notices import LastResort, last_resort
from sandfleet.planning.placement import FleetView, NoPlacement, Placement, PlacementPolicy

RETRY_S = 5.0
RETRY_S_MAX = 300.0
SAVING_TIME = timedelta(minutes=5)
"""So long before the deadline the saves begin, or half-way to it if that is less."""
TOO_LATE = "it would not be elsewhere before the deadline"
MOVE_MIB_PER_S = 64
"""What a move may be relied on to bring across: one that would come too late is not begun."""
_DOUBLINGS_MAX = 10


@dataclass(frozen=True, slots=True)
class Resident:
    """A sandbox that is on the draining worker still, and what is known of its moves."""

    sandbox: Sandbox
    under_way: str | None = None
    """What else is being done with it; nothing else begins meanwhile."""
    before: Stay | None = None
    """What was known of it the time before; of a move under way, where it goes."""
    reserved_mib: int = 0
    """What is promised to it here, if that is more than its row says."""
    is_cleared: bool = True
    """Whether nothing of an earlier move is left elsewhere: until then it cannot move again."""
    is_saved_here_alone: bool = False
    """Whether a state of it is still being brought to the object store."""

    @property
    def memory_mib(self) -> int:
        """What may have to be copied of it."""
        return max(self.sandbox.resources.memory_mib, self.reserved_mib)


@dataclass(frozen=True, slots=True)
class DrainPolicy:
    """How many may leave a worker at once, and how many may come to one."""

    moves_at_once: int
    placement: PlacementPolicy
    deadline_at: datetime | None = None
    saves_from: datetime | None = None
    """From when on what cannot leave at once is put to sleep; None: nothing is."""
    saves_at_once: int = 0
    """How many may be put to sleep at once, if not as many as move."""
    no_saves: str = ""
    """Why nothing is put to sleep, if nothing may be."""
    is_host_ending: bool = False
    """Whether the host ends at the deadline: then what can neither move nor sleep by it is kept otherwise."""
    worker_version: str | None = None
    """A roll-out's drain moves to workers of this version alone."""


@dataclass(frozen=True, slots=True)
class PlannedMove:
    """A sandbox that is to leave now."""

    sandbox: Sandbox
    target: WorkerId
    reason: str


@dataclass(frozen=True, slots=True)
class PlannedSave:
    """A sandbox that is to be put to sleep now."""

    sandbox: Sandbox
    reason: str


@dataclass(frozen=True, slots=True)
class PlannedCheckpoint:
    """A sandbox of which a checkpoint is to be taken now."""

    sandbox: Sandbox
    reason: str


@dataclass(frozen=True, slots=True)
class DrainPlan:
    """What begins now, and what is to be known of all the others."""

    moves: Sequence[PlannedMove]
    stays: Sequence[Stay]
    saves: Sequence[PlannedSave] = ()
    checkpoints: Sequence[PlannedCheckpoint] = ()


def saves_begin(drain: Drain) -> datetime | None:
    """Return from when on a drain puts sandboxes to sleep."""
    if drain.deadline_at is None:
        return None
    return drain.deadline_at - min(SAVING_TIME, max(timedelta(), (drain.deadline_at - drain.begun_at) / 2))


def state_of(drain: Drain, stays: Sequence[Stay], *, is_bare: bool, now: datetime) -> DrainState:
    """Return how it stands. `is_bare`: nothing is promised there any more."""
    if not stays and is_bare:
        return DrainState.DRAINED
    is_over = drain.deadline_at is not None and now >= drain.deadline_at
    return DrainState.STUCK if is_over else DrainState.DRAINING


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
    leaving = [_leaving(one) for one in residents if one.sandbox.state in _LEAVING]
    round_ = _Round(worker, view, policy, now, Counter(incoming))
    for stay in leaving:
        round_.count(stay)
    others = [one for one in residents if one.sandbox.state not in _LEAVING]
    for resident in sorted(others, key=_lightest_first):
        round_.consider(resident)
    stays = (*leaving, *round_.stays)
    return DrainPlan(tuple(round_.moves), stays, tuple(round_.saves), tuple(round_.checkpoints))


def retry_at(attempts: int, *, now: datetime) -> datetime:
    """Return when a sandbox of which so many moves have failed is moved again."""
    doubled = RETRY_S * 2 ** min(max(0, attempts - 1), _DOUBLINGS_MAX)
    return now + timedelta(seconds=min(doubled, RETRY_S_MAX))


def _lightest_first(resident: Resident) -> tuple[int, str]:
    return resident.sandbox.resources.memory_mib, resident.sandbox.id


_LEAVING = {SandboxState.MIGRATING: StayReason.MOVING, SandboxState.HIBERNATING: StayReason.SAVING}


def _leaving(resident: Resident) -> Stay:
    reason = _LEAVING[resident.sandbox.state]
    before = resident.before or Stay(resident.sandbox.id, reason, "")
    said = f"it moves to {before.target}" if before.target else "it moves"
    if reason is StayReason.SAVING:
        before, said = replace(before, target=None), "it is being put to sleep"
    return replace(before, reason=reason, said=said, retry_at=None)


class _Round:
    """The view as it becomes with each move that is planned."""

    def __init__(
        self,
        worker: Worker,
        view: FleetView,
        policy: DrainPolicy,
        now: datetime,
        incoming: Counter[WorkerId],
    ) -> None:
        self.moves: list[PlannedMove] = []
        self.saves: list[PlannedSave] = []
        self.checkpoints: list[PlannedCheckpoint] = []
        self.stays: list[Stay] = []
        self._worker = worker
        self._workers = {one.id: one for one in view.workers}
        self._policy = policy
        self._now = now
        self._incoming = incoming
        self._room = {
            StayReason.MOVING: policy.moves_at_once,
            StayReason.SAVING: policy.saves_at_once or policy.moves_at_once,
        }

    def count(self, stay: Stay) -> None:
        """Count one that is on its way already."""
        self._room[stay.reason] -= 1

    def consider(self, resident: Resident) -> None:
        """Plan how it leaves, or say why it stays."""
        if resident.before is not None and resident.before.is_being_kept:
            self._room[StayReason.SAVING] -= 1
            self.stays.append(resident.before)
            return
        because = self._first_refusal(resident)
        if because is not None:
            self._stay(resident, *because)
            return
        way = self._way_out(resident)
        if isinstance(way, Placement):
            self._move(resident, way)
        else:
            self._save_or_stay(resident, *way)

    def _way_out(self, resident: Resident) -> Placement | tuple[StayReason, str]:
        """Return where it moves now, or why it does not."""
        if self._is_paused(resident):
            return StayReason.HELD, resident.before.said if resident.before else ""
        if not resident.is_cleared:
            return StayReason.WAITING, "an earlier move of it is not cleared away yet"
        choice = self._choice(resident)
        if isinstance(choice, NoPlacement):
            return StayReason.HELD, _nowhere(choice)
        if not self._comes_in_time(resident):
            return StayReason.HELD, TOO_LATE
        if self._incoming[choice.worker_id] >= self._policy.moves_at_once:
            return StayReason.WAITING, f"{choice.worker_id} takes others first"
        if self._room[StayReason.MOVING] <= 0:
            return StayReason.WAITING, "others move first"
        return choice

    def _save_or_stay(self, resident: Resident, reason: StayReason, said: str) -> None:
        """Put to sleep what cannot move now, once it is time for that."""
        begins = self._policy.saves_from
        # What would come too late elsewhere has nothing to wait for.
        is_time = begins is not None and (self._now >= begins or said == TOO_LATE)
        if not is_time:
            self._stay(resident, reason, said)
        elif self._policy.no_saves:
            self._stay(resident, reason, f"{said}; it is not put to sleep: {self._policy.no_saves}")
        elif self._policy.is_host_ending and self._last_resort(resident) is LastResort.CHECKPOINT:
            self._keep_or_stay(resident, reason, said)
        elif (
            self._is_paused(resident) and resident.before is not None and resident.before.has_failed_to_sleep
        ):
            self._stay(resident, reason, said)
        elif self._room[StayReason.SAVING] <= 0:
            self._stay(resident, StayReason.WAITING, f"others are put to sleep first; {said}")
        else:
            self._room[StayReason.SAVING] -= 1
            self.saves.append(PlannedSave(resident.sandbox, said))

    def _last_resort(self, resident: Resident) -> LastResort:
        before, deadline_at = resident.before, self._policy.deadline_at
        left_s = 0.0 if deadline_at is None else (deadline_at - self._now).total_seconds()
        refuses = before is not None and before.has_failed_to_sleep and self._is_paused(resident)
        return last_resort(resident.memory_mib, left_s=left_s, refuses_sleep=refuses)

    def _keep_or_stay(self, resident: Resident, reason: StayReason, said: str) -> None:
        """Have a checkpoint taken, once; it is looked for a place all the same."""
        before = resident.before
        if before is not None and before.kept_at is not None:
            state = f"its state of {before.kept_at:%H:%M:%S}"
            then = (
                "is brought to the object store"
                if resident.is_saved_here_alone
                else "is what it comes back from"
            )
            self._stay(resident, StayReason.HELD, f"{said}; it runs on, and {state} {then}")
        elif before is not None and before.has_failed_to_be_kept and self._is_paused(resident):
            self._stay(resident, reason, before.said)
        elif self._room[StayReason.SAVING] <= 0:
            self._stay(resident, StayReason.WAITING, f"others are saved first; {said}")
        else:
            self._room[StayReason.SAVING] -= 1
            self.checkpoints.append(PlannedCheckpoint(resident.sandbox, said))

    def _is_paused(self, resident: Resident) -> bool:
        """Whether what failed is not tried again yet."""
        before = resident.before
        return before is not None and before.retry_at is not None and before.retry_at > self._now

    def _comes_in_time(self, resident: Resident) -> bool:
        """Whether a move may end before the deadline; after it there is nothing to lose."""
        deadline_at = self._policy.deadline_at
        if deadline_at is None or self._now >= deadline_at:
            return True
        return self._now + timedelta(seconds=resident.memory_mib / MOVE_MIB_PER_S) <= deadline_at

    def _first_refusal(self, resident: Resident) -> tuple[StayReason, str] | None:
        state = resident.sandbox.state
        if resident.sandbox.is_terminal:
            return StayReason.WAITING, "it has ended, and its machine is being cleared away"
        if self._worker.state is not WorkerState.READY:
            return StayReason.HELD, f"{self._worker.id} is {self._worker.state}"
        if state is not SandboxState.RUNNING:
            return StayReason.WAITING, f"it is {state}"
        if resident.under_way is not None:
            return StayReason.WAITING, f"{resident.under_way} is under way"
        return None

    def _choice(self, resident: Resident) -> Placement | NoPlacement:
        """Where it would go; where it did not get to comes last."""
        failed = resident.before.target if resident.before and resident.before.attempts else None
        everywhere = FleetView(tuple(self._workers.values()))
        elsewhere = FleetView(tuple(one for one in everywhere.workers if one.id != failed))
        choice = self._choose(resident, elsewhere)
        if isinstance(choice, NoPlacement) and failed is not None:
            return self._choose(resident, everywhere)
        return choice

    def _choose(self, resident: Resident, among: FleetView) -> Placement | NoPlacement:
        placement, reserved = self._policy.placement, resident.reserved_mib
        return choose_target(
            resident.sandbox,
            among,
            placement,
            wanted=None,
            reserved_mib=reserved,
            worker_version=self._policy.worker_version,
        )

    def _move(self, resident: Resident, choice: Placement) -> None:
        self._room[StayReason.MOVING] -= 1
        self._incoming[choice.worker_id] += 1
        target = self._workers[choice.worker_id]
        taken = target.committed + held_resources(resident.sandbox, resident.reserved_mib)
        self._workers[target.id] = replace(target, committed=taken)
        self.moves.append(PlannedMove(resident.sandbox, target.id, choice.reason))

    def _stay(self, resident: Resident, reason: StayReason, said: str) -> None:
        before = resident.before or Stay(resident.sandbox.id, reason, said)
        self.stays.append(replace(before, reason=reason, said=said, operation_id=None))


def _nowhere(choice: NoPlacement) -> str:
    why = "; ".join(f"{worker} {reason}" for worker, reason in sorted(choice.refusals.items()))
    return f"nobody can take it: {why or 'there is no other worker'}"
