"""A drain: a worker that all its sandboxes are to leave, and what is known of each that has not yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sandfleet.model.ids import OperationId, SandboxId, WorkerId


class DrainState(StrEnum):
    """`drained`: nothing of any sandbox is there, by its worker's own proof."""

    DRAINING = "draining"
    DRAINED = "drained"


class DrainOwner(StrEnum):
    """Who began a drain. No loop calls off another's; an operator's word goes before everybody's."""

    CAPACITY = "capacity"
    ROLLOUT = "rollout"
    OPERATOR = "operator"


class StayReason(StrEnum):
    """Why a sandbox is on a draining worker still."""

    MOVING = "moving"
    WAITING = "waiting"
    """It has its turn later: others move, or it is busy with something that ends by itself."""
    HELD = "held"
    """It cannot go as things are: nobody has room, or its worker does not answer."""


@dataclass(frozen=True, slots=True)
class Stay:
    """One sandbox that is on a draining worker still. `attempts` counts the moves that have failed."""

    sandbox_id: SandboxId
    reason: StayReason
    said: str
    target: WorkerId | None = None
    """Where it moves to, or where the last move did not get to."""
    operation_id: OperationId | None = None
    attempts: int = 0
    retry_at: datetime | None = None


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
