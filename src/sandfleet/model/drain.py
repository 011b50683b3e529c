"""A drain: a worker that all its sandboxes are to leave, and what is known of each that has not yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sandfleet.model.ids import OperationId, SandboxId, WorkerId


class DrainState(StrEnum):
    """`drained`: nothing of any sandbox is there, by its worker's own proof.

    `stuck`: its deadline is over and something is there still. It goes on trying, and somebody should look.
    """

    DRAINING = "draining"
    STUCK = "stuck"
    DRAINED = "drained"


class DrainOwner(StrEnum):
    """Who began a drain. No loop calls off another's; an operator's word goes before theirs."""

    CAPACITY = "capacity"
    ROLLOUT = "rollout"
    NOTICE = "notice"
    """The host is about to end, by the word of who owns it: until then it must be empty, whoever wants it."""
    OPERATOR = "operator"

    def takes_over(self, other: DrainOwner) -> bool:
        """Whether a drain of `other` becomes this one's when it asks for it."""
        return _GOES_BEFORE[self] > _GOES_BEFORE[other]

    @property
    def may_renew(self) -> bool:
        """Whether it may change what was agreed. A loop decides the same thing again and again."""
        return self is DrainOwner.OPERATOR


_GOES_BEFORE = {
    DrainOwner.CAPACITY: 0,
    DrainOwner.ROLLOUT: 0,
    DrainOwner.OPERATOR: 1,
    DrainOwner.NOTICE: 2,
}


class StayReason(StrEnum):
    """Why a sandbox is on a draining worker still."""

    MOVING = "moving"
    WAITING = "waiting"
    """It has its turn later: others move, or it is busy with something that ends by itself."""
    SAVING = "saving"
    """It is put to sleep, or sleeps, and its saved state is nowhere else yet."""
    KEEPING = "keeping"
    """A checkpoint of it is taken, from which it comes back when its host ends; until then it runs on."""
    HELD = "held"
    """It cannot go as things are: nobody has room, or its worker does not answer."""


@dataclass(frozen=True, slots=True)
class Stay:
    """One sandbox that is on a draining worker still. `attempts` counts moves and saves that have failed."""

    sandbox_id: SandboxId
    reason: StayReason
    said: str
    target: WorkerId | None = None
    """Where it moves to, or where the last move did not get to."""
    operation_id: OperationId | None = None
    attempts: int = 0
    retry_at: datetime | None = None
    has_failed_to_sleep: bool = False
    """Whether what failed last was to put it to sleep, and not a move."""
    has_failed_to_be_kept: bool = False
    """Whether it was a checkpoint."""
    kept_at: datetime | None = None
    """Of when the state is from which it comes back, if its host ends before it is elsewhere."""

    @property
    def is_being_kept(self) -> bool:
        """Whether a checkpoint of it is under way, by all that is known."""
        return self.reason is StayReason.KEEPING and self.operation_id is not None


@dataclass(frozen=True, slots=True)
class Drain:
    """One worker's drain, as it was last seen. Without a row a worker is not being drained."""

    worker_id: WorkerId
    actor: str
    begun_at: datetime
    state: DrainState = DrainState.DRAINING
    drained_at: datetime | None = None
    moved: int = 0
    stays: Sequence[Stay] = ()
    owner: DrainOwner = DrainOwner.OPERATOR
    reason: str = ""
    deadline_at: datetime | None = None
    """When nothing may be there any more. Shortly before, what has not moved is put to sleep."""
    hibernates: bool = True
    """Whether it may be: else what nobody can take stays, and the drain is stuck at its deadline."""
    slept: int = 0
    """How many have been put to sleep."""
    stuck_at: datetime | None = None

    @property
    def news(self) -> tuple[str, str]:
        """What the log tells of its state, and why."""
        done = f"{self.moved} sandboxes moved, {self.slept} were put to sleep"
        if self.state is DrainState.DRAINED:
            return "drained", done
        left = "; ".join(f"{stay.sandbox_id}: {stay.said}" for stay in self.stays[:_NAMED_MAX])
        more = f" and {len(self.stays) - _NAMED_MAX} more" if len(self.stays) > _NAMED_MAX else ""
        return "drain_stuck", f"its deadline is over, {len(self.stays)} are there still: {left}{more}"


DRAIN_DEADLINE_S = 3600.0
ASKED_FOR = "asked for"
_NAMED_MAX = 10


@dataclass(frozen=True, slots=True)
class DrainTerms:
    """What is agreed when a drain begins: why, until when, and whether anything is put to sleep for it."""

    reason: str = ASKED_FOR
    deadline_s: float = DRAIN_DEADLINE_S
    hibernates: bool = True
