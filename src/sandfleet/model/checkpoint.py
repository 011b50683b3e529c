"""A checkpoint: a named, kept snapshot that its owner can restore or fork."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from sandfleet.model.ids import CheckpointId, OrganisationId, SandboxId, SnapshotId
from sandfleet.model.resources import Resources

CHECKPOINTS_MAX = 10
"""Full checkpoints that one sandbox may have; failed ones do not count."""


class CheckpointState(StrEnum):
    """`ready` means durable and verified, not merely taken."""

    PROCESSING = "processing"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One row, with all of the sandbox that a fork starts from, so that it outlives the sandbox."""

    id: CheckpointId
    organisation_id: OrganisationId
    sandbox_id: SandboxId
    snapshot_id: SnapshotId | None
    name: str
    state: CheckpointState
    created_at: datetime
    template: str
    region: str
    resources: Resources
    timeout_s: int = 0
    port: int = 80
    network_enabled: bool = True
    envs: Mapping[str, str] = field(default_factory=dict, repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict)
    template_version: str | None = None
    size_bytes: int = 0
    ready_at: datetime | None = None
    failed_at: datetime | None = None
    error_message: str | None = None
