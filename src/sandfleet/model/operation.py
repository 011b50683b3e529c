"""A durable operation: a row with a step, a lease and its progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sandfleet.model.ids import OperationId, OrganisationId, SandboxId


class OperationKind(StrEnum):
    """What an operation does to its sandbox."""

    CREATE = "create"
    DESTROY = "destroy"
    EXPIRE = "expire"
    HIBERNATE = "hibernate"
    WAKE = "wake"
    CHECKPOINT = "checkpoint"
    RESTORE = "restore"
    FORK = "fork"
    UPLOAD = "upload"
    RESIZE = "resize"
    REBOOT = "reboot"
    RECOVER = "recover"
    MIGRATE = "migrate"
    RELEASE = "release"
    """Have nothing left at the worker where a sandbox that was to move is not, after all."""


BACKGROUND_KINDS = frozenset({OperationKind.UPLOAD, OperationKind.DESTROY, OperationKind.RELEASE})
"""Operations beside which the sandbox may be changed by others; of all the rest there is one at a time."""


class OperationState(StrEnum):
    """Where an operation stands. Only `running` is not final."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Lease:
    """Ownership of an operation for a limited time; every write checks the token."""

    holder: str
    token: int
    deadline_at: datetime


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. `step` names the next step to run; each step may run twice."""

    id: OperationId
    kind: OperationKind
    organisation_id: OrganisationId
    sandbox_id: SandboxId
    state: OperationState
    step: str
    created_at: datetime
    deadline_at: datetime
    lease: Lease | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    progress: Mapping[str, Any] = field(default_factory=dict)
    cancel_requested: bool = False
    error_code: str | None = None
    error_message: str | None = None
    finished_at: datetime | None = None
    is_overdue: bool = False
    """Whether `deadline_at` had passed by the database's clock when the row was read."""
