"""A sandbox: one tenant's VM with its identity, through all its lives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from sandfleet.model.ids import CheckpointId, OrganisationId, SandboxId, SnapshotId, WorkerId
from sandfleet.model.resources import Resources
from sandfleet.model.scaling import UNSCALED, Scaling


class SandboxState(StrEnum):
    """What the row says of a sandbox. The public API shows the same words."""

    CREATING = "creating"
    RUNNING = "running"
    HIBERNATING = "hibernating"
    HIBERNATED = "hibernated"
    WAKING = "waking"
    RESTORING = "restoring"
    REBOOTING = "rebooting"
    MIGRATING = "migrating"
    STOPPED = "stopped"
    FAILED = "failed"
    ERROR = "error"


TERMINAL_STATES = frozenset({SandboxState.STOPPED, SandboxState.FAILED, SandboxState.ERROR})
LISTED_STATES = frozenset(
    {
        SandboxState.CREATING,
        SandboxState.RUNNING,
        SandboxState.WAKING,
        SandboxState.RESTORING,
        SandboxState.REBOOTING,
        SandboxState.MIGRATING,
    }
)


SERVED_STATES = frozenset({SandboxState.RUNNING, SandboxState.MIGRATING})
"""States in which requests are passed on to the row's worker. One that moves runs on until it is switched."""


class StopReason(StrEnum):
    """Why a sandbox ended."""

    USER_REQUESTED = "user_requested"
    EXPIRED = "expired"
    CRASH = "crash"


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One row of truth: (state, worker, epoch, version) and what the user asked for.

    `version` rises with every change; `epoch` rises with every change of owner.
    `deadline_at` bounds every non-terminal middle state; its operation enforces it.
    """

    id: SandboxId
    organisation_id: OrganisationId
    state: SandboxState
    version: int
    epoch: int
    worker_id: WorkerId | None
    template: str
    resources: Resources
    region: str
    created_at: datetime
    changed_at: datetime
    timeout_s: int = 0
    port: int = 80
    network_enabled: bool = True
    envs: Mapping[str, str] = field(default_factory=dict, repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict)
    alias: str | None = None
    template_version: str | None = None
    active_at: datetime | None = None
    started_at: datetime | None = None
    stopped_at: datetime | None = None
    deadline_at: datetime | None = None
    stop_reason: StopReason | None = None
    error_message: str | None = None
    snapshot_id: SnapshotId | None = None
    """What it starts from while it is coming, what it was saved to when hibernated, and, after a
    wake, the newest state that is safe until there is a newer one."""
    from_checkpoint_id: CheckpointId | None = None
    cpu_percent: int | None = None
    """CPU limit in percent of one core; None is all of the vCPUs."""
    tags: Mapping[str, str] = field(default_factory=dict)
    tags_changed_at: datetime | None = None
    preview_digest: bytes | None = field(default=None, repr=False)
    """SHA-256 of the token that preview requests must carry; None is an open door."""
    scaling: Scaling = UNSCALED

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can bring this sandbox back."""
        return self.state in TERMINAL_STATES
