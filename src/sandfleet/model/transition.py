"""One row of the transition log: who moved what from where to where, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sandfleet.model.ids import OperationId, OrganisationId, SandboxId, WorkerId


@dataclass(frozen=True, slots=True)
class Transition:
    """Written in the same transaction as the change that it describes."""

    event: str
    actor: str
    reason: str
    at: datetime
    from_state: str | None = None
    to_state: str | None = None
    organisation_id: OrganisationId | None = None
    sandbox_id: SandboxId | None = None
    worker_id: WorkerId | None = None
    epoch: int = 0
    operation_id: OperationId | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    id: int | None = None
    """Number of the row; None until it is written."""
