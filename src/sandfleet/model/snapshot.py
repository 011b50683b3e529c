"""A snapshot: one capture of a VM, memory and disks of the same instant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sandfleet.model.ids import OrganisationId, SandboxId, SnapshotId, WorkerId


class SnapshotState(StrEnum):
    """How safe the capture is. Only `durable` may be loaded by a worker that did not take it."""

    SAVING = "saving"
    LOCAL = "local"
    DURABLE = "durable"
    FAILED = "failed"
    GARBAGE = "garbage"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One row. It exists before the files do, and goes after them.

    `worker_id` names the host that took it; `manifest` is what that host said of the files,
    and a worker that loads them refuses files that say otherwise.
    """

    id: SnapshotId
    organisation_id: OrganisationId
    sandbox_id: SandboxId
    state: SnapshotState
    created_at: datetime
    worker_id: WorkerId | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict, repr=False)
    size_bytes: int = 0
    pause_ms: float = 0.0
    error_message: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether a VM can be started from it somewhere."""
        return self.state in (SnapshotState.LOCAL, SnapshotState.DURABLE)
