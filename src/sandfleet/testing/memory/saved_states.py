"""Snapshots and checkpoints in memory (ports: `ports.saved_states`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sandfleet.model.checkpoint import Checkpoint, CheckpointState
from sandfleet.model.errors import NotFound
from sandfleet.model.ids import CheckpointId, OrganisationId, SandboxId, SnapshotId, WorkerId
from sandfleet.model.operation import OperationKind
from sandfleet.model.sandbox import SandboxState
from sandfleet.model.snapshot import Snapshot, SnapshotState
from sandfleet.testing.memory.database import MemoryDatabase
from sandfleet.testing.memory.link import Link
from sandfleet.testing.memory.operations import write_snapshot

_NEVER_BACK = (SandboxState.STOPPED, SandboxState.FAILED)


class MemorySnapshotRecords:
    """Which captures there are, and how safe each is."""

    def __init__(self, database: MemoryDatabase, link: Link) -> None:
        self._database = database
        self._link = link

    async def get(self, snapshot_id: SnapshotId) -> Snapshot:
        """Return it."""

        def work() -> Snapshot:
            found = self._database.snapshots.get(snapshot_id)
            if found is None or found.state is SnapshotState.GARBAGE:
                raise NotFound(f"snapshot {snapshot_id} not found")
            return found

        return await self._link.call(work, repeatable=True, name="get_snapshot")

    async def save(self, snapshot: Snapshot) -> None:
        """Write how it stands."""

        def work() -> None:
            if not write_snapshot(self._database, snapshot):
                raise NotFound(f"snapshot {snapshot.id} not found")

        await self._link.call(work, repeatable=True, name="save_snapshot")

    async def complete_of(self, sandbox_id: SandboxId) -> Sequence[Snapshot]:
        """Return what a VM of the sandbox can be started from."""

        def work() -> Sequence[Snapshot]:
            found = [
                one
                for one in self._database.snapshots.values()
                if one.sandbox_id == sandbox_id and one.is_complete
            ]
            return sorted(found, key=lambda one: (one.created_at, one.id), reverse=True)

        return await self._link.call(work, repeatable=True, name="complete_of")

    async def only_on(self, worker_id: WorkerId) -> Sequence[Snapshot]:
        """Return what would be lost with the worker."""

        def work() -> Sequence[Snapshot]:
            unsafe = (SnapshotState.SAVING, SnapshotState.LOCAL)
            found = [one for one in self._database.snapshots.values() if one.worker_id == worker_id]
            return sorted((one for one in found if one.state in unsafe), key=lambda one: one.id)

        return await self._link.call(work, repeatable=True, name="only_on")

    async def mark_garbage(self, *, term: int, limit: int = 100) -> Sequence[Snapshot]:
        """Mark what nothing needs, and return all that is marked."""

        def work() -> Sequence[Snapshot]:
            self._database.require_term(term)
            rows = self._database.snapshots
            unneeded = [
                one
                for one in rows.values()
                if one.state is not SnapshotState.GARBAGE and not is_needed(self._database, one)
            ]
            for one in unneeded[:limit]:
                rows[one.id] = replace(one, state=SnapshotState.GARBAGE)
            return [one for one in rows.values() if one.state is SnapshotState.GARBAGE][:limit]

        return await self._link.call(work, repeatable=True, name="mark_garbage")

    async def remove(self, snapshot_id: SnapshotId) -> None:
        """Delete the row of what is gone; who named it names nothing any more."""

        def work() -> None:
            database = self._database
            found = database.snapshots.get(snapshot_id)
            if found is None or found.state is not SnapshotState.GARBAGE:
                return
            del database.snapshots[snapshot_id]
            for row in list(database.sandboxes.values()):
                if row.snapshot_id == snapshot_id:
                    database.sandboxes[row.id] = replace(row, snapshot_id=None)
            for checkpoint in list(database.checkpoints.values()):
                if checkpoint.snapshot_id == snapshot_id:
                    database.checkpoints[checkpoint.id] = replace(checkpoint, snapshot_id=None)

        await self._link.call(work, repeatable=True, name="remove_snapshot")

    async def with_row(self, snapshots: Sequence[SnapshotId]) -> frozenset[SnapshotId]:
        """Return those that have a row."""

        def work() -> frozenset[SnapshotId]:
            return frozenset(one for one in snapshots if one in self._database.snapshots)

        return await self._link.call(work, repeatable=True, name="with_row")

    async def kept(self) -> Sequence[SnapshotId]:
        """Return all that is not garbage."""

        def work() -> Sequence[SnapshotId]:
            rows = self._database.snapshots.values()
            return [one.id for one in rows if one.state is not SnapshotState.GARBAGE]

        return await self._link.call(work, repeatable=True, name="kept")


class MemoryCheckpointRecords:
    """Checkpoints of tenants."""

    def __init__(self, database: MemoryDatabase, link: Link) -> None:
        self._database = database
        self._link = link

    async def get(self, organisation_id: OrganisationId, checkpoint_id: CheckpointId) -> Checkpoint:
        """Return it."""

        def work() -> Checkpoint:
            found = self._database.checkpoints.get(checkpoint_id)
            if found is None or found.organisation_id != organisation_id:
                raise NotFound("checkpoint not found")
            return found

        return await self._link.call(work, repeatable=True, name="get_checkpoint")

    async def list(self, organisation_id: OrganisationId, sandbox_id: SandboxId) -> Sequence[Checkpoint]:
        """Return those of one sandbox."""

        def work() -> Sequence[Checkpoint]:
            found = [
                one
                for one in self._database.checkpoints.values()
                if one.organisation_id == organisation_id and one.sandbox_id == sandbox_id
            ]
            return sorted(found, key=lambda one: (one.created_at, one.id), reverse=True)

        return await self._link.call(work, repeatable=True, name="list_checkpoints")

    async def count(self, sandbox_id: SandboxId) -> int:
        """Return how many count against the limit."""

        def work() -> int:
            rows = self._database.checkpoints.values()
            return sum(
                one.sandbox_id == sandbox_id and one.state is not CheckpointState.FAILED for one in rows
            )

        return await self._link.call(work, repeatable=True, name="count_checkpoints")

    async def delete(
        self, organisation_id: OrganisationId, sandbox_id: SandboxId, checkpoint_id: CheckpointId
    ) -> None:
        """Delete the row; its snapshot goes when nothing else needs it."""

        def work() -> None:
            found = self._database.checkpoints.get(checkpoint_id)
            is_theirs = found is not None and (found.organisation_id, found.sandbox_id) == (
                organisation_id,
                sandbox_id,
            )
            if not is_theirs:
                raise NotFound("checkpoint not found")
            del self._database.checkpoints[checkpoint_id]

        await self._link.call(work, name="delete_checkpoint")


def is_needed(database: MemoryDatabase, snapshot: Snapshot) -> bool:
    """Whether a sandbox that may come back, a checkpoint or an open operation needs it."""
    rows = database.sandboxes.values()
    if any(row.snapshot_id == snapshot.id and row.state not in _NEVER_BACK for row in rows):
        return True
    checkpoints = database.checkpoints.values()
    if any(one.snapshot_id == snapshot.id and one.state is not CheckpointState.FAILED for one in checkpoints):
        return True
    running = (stored.operation for stored in database.running.values())
    if any(
        one.kind is not OperationKind.UPLOAD and one.arguments.get("snapshot_id") == snapshot.id
        for one in running
    ):
        return True
    return _has_no_safe_successor(database, snapshot)


def _has_no_safe_successor(database: MemoryDatabase, snapshot: Snapshot) -> bool:
    """Whether it is its sandbox's durable state while the one that follows is not durable."""
    owner = database.sandboxes.get(snapshot.sandbox_id)
    if snapshot.state is not SnapshotState.DURABLE or owner is None or owner.is_terminal:
        return False
    newest = None if owner.snapshot_id is None else database.snapshots.get(owner.snapshot_id)
    return newest is not None and newest.id != snapshot.id and newest.state is not SnapshotState.DURABLE
