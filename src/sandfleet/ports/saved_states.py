"""What the control plane knows of snapshots and checkpoints (adapter: `adapters/postgres`).

Rows are inserted by `SandboxStore.start_operation` and change with the end of an
operation (`OperationStore.finish`): never without the operation that answers for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sandfleet.model.checkpoint import Checkpoint
from sandfleet.model.ids import CheckpointId, OrganisationId, SandboxId, SnapshotId, WorkerId
from sandfleet.model.snapshot import Snapshot


class SnapshotRecords(Protocol):
    """Snapshots, for the fleet's own use."""

    async def get(self, snapshot_id: SnapshotId) -> Snapshot:
        """Return it or raise NotFound; garbage is not found."""
        ...

    async def save(self, snapshot: Snapshot) -> None:
        """Write how it stands, for an operation that goes on; NotFound when it is garbage."""
        ...

    async def complete_of(self, sandbox_id: SandboxId) -> Sequence[Snapshot]:
        """Return the complete ones that were taken of the sandbox, newest first."""
        ...

    async def only_on(self, worker_id: WorkerId) -> Sequence[Snapshot]:
        """Return those that are being saved on the worker or lie there and are not durable, by id."""
        ...

    async def mark_garbage(self, *, term: int, limit: int = 100) -> Sequence[Snapshot]:
        """Mark snapshots that nothing needs, and return all that are marked and not removed yet. StaleTerm.

        Needed is what a sandbox that may come back, a checkpoint or an open operation names,
        and the durable state of a sandbox as long as the one after it is not durable.
        What is marked is never needed again.
        """
        ...

    async def remove(self, snapshot_id: SnapshotId) -> None:
        """Delete the row of garbage of which no host and no store has anything left. Idempotent."""
        ...

    async def with_row(self, snapshots: Sequence[SnapshotId]) -> frozenset[SnapshotId]:
        """Return those of these ids that have a row, garbage included."""
        ...

    async def kept(self) -> Sequence[SnapshotId]:
        """Return the ids of all that is not garbage."""
        ...


class CheckpointRecords(Protocol):
    """Checkpoints of tenants."""

    async def get(self, organisation_id: OrganisationId, checkpoint_id: CheckpointId) -> Checkpoint:
        """Return it or raise NotFound; another organisation's is not found."""
        ...

    async def list(self, organisation_id: OrganisationId, sandbox_id: SandboxId) -> Sequence[Checkpoint]:
        """Return those of one sandbox, newest first."""
        ...

    async def count(self, sandbox_id: SandboxId) -> int:
        """Return how many of a sandbox's checkpoints have not failed."""
        ...

    async def delete(
        self, organisation_id: OrganisationId, sandbox_id: SandboxId, checkpoint_id: CheckpointId
    ) -> None:
        """Delete it or raise NotFound. A fork that was begun before keeps what it needs."""
        ...
