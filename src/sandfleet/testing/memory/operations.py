"""Durable operations in memory (port: `ports.stores.OperationStore`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sandfleet.model.checkpoint import CheckpointState
from sandfleet.model.errors import NotFound
from sandfleet.model.ids import OperationId, SandboxId
from sandfleet.model.operation import Operation
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.snapshot import Snapshot, SnapshotState
from sandfleet.model.transition import Transition
from sandfleet.testing.memory.database import MemoryDatabase, as_json
from sandfleet.testing.memory.link import Link

_FATES = {SnapshotState.DURABLE: CheckpointState.READY, SnapshotState.FAILED: CheckpointState.FAILED}


class MemoryOperationStore:
    """Operations, their leases, and their ends."""

    def __init__(self, database: MemoryDatabase, link: Link) -> None:
        self._database = database
        self._link = link

    async def get(self, operation_id: OperationId) -> Operation:
        """Return it."""

        def work() -> Operation:
            stored = self._database.operations.get(operation_id)
            if stored is None:
                raise NotFound(f"operation {operation_id} not found")
            return self._database.read_operation(stored)

        return await self._link.call(work, repeatable=True, name="get_operation")

    async def save(self, operation: Operation) -> Operation:
        """Write it if the lease is ours."""

        def work() -> Operation:
            self._database.require_lease(operation)
            return self._database.write_operation(operation)

        return await self._link.call(work, repeatable=True, name="save_operation")

    async def extend(self, operation: Operation, *, lease_s: float) -> Operation:
        """Prolong the lease."""

        def work() -> Operation:
            stored = self._database.require_lease(operation)
            stored.lease_s = lease_s
            stored.lease_until = self._in(lease_s)
            return self._database.read_operation(stored)

        return await self._link.call(work, repeatable=True, name="extend")

    async def finish(  # noqa: PLR0913 -- what an end may mean
        self,
        operation: Operation,
        *,
        sandbox: Sandbox | None = None,
        transition: Transition | None = None,
        follow_up: Operation | None = None,
        releases: bool = False,
        snapshot: Snapshot | None = None,
        reserved_mib: int | None = None,
    ) -> Operation:
        """End it with all that its end means."""

        def work() -> None:
            database = self._database
            database.require_lease(operation)
            if sandbox is not None:
                database.require_version(sandbox)
            if follow_up is not None:
                database.require_new(follow_up)
            database.write_operation(operation)
            if follow_up is not None:
                database.insert_operation(follow_up)
            if sandbox is not None:
                database.write_sandbox(sandbox)
            if transition is not None:
                database.log(transition)
            if releases:
                database.reservations.pop(operation.sandbox_id, None)
            if reserved_mib is not None:
                database.reserve(operation.sandbox_id, reserved_mib)
            if snapshot is not None:
                write_snapshot(database, snapshot)
                _write_fate(database, snapshot, at=operation.finished_at)

        await self._link.call(work, name="finish")
        return operation

    async def take_over(self, *, holder: str, lease_s: float, limit: int = 10) -> Sequence[Operation]:
        """Lease what nobody holds any more."""

        def work() -> Sequence[Operation]:
            now = self._database.now()
            orphans = [one for one in self._database.running.values() if one.lease_until < now]
            orphans.sort(key=lambda one: one.lease_until)
            for stored in orphans[:limit]:
                stored.holder, stored.token = holder, stored.token + 1
                stored.lease_s, stored.lease_until = lease_s, self._in(lease_s)
            return [self._database.read_operation(stored) for stored in orphans[:limit]]

        return await self._link.call(work, name="take_over")

    async def let_go(self, *, holder: str) -> int:
        """End the holder's leases."""

        def work() -> int:
            held = [one for one in self._database.running.values() if one.holder == holder]
            for stored in held:
                stored.lease_until = self._database.now()
            return len(held)

        return await self._link.call(work, repeatable=True, name="let_go")

    async def open_for(self, sandbox_id: SandboxId) -> Sequence[Operation]:
        """Return those that have not ended."""

        def work() -> Sequence[Operation]:
            found = [
                self._database.read_operation(stored) for stored in self._database.open_operations(sandbox_id)
            ]
            return sorted(found, key=lambda one: one.created_at)

        return await self._link.call(work, repeatable=True, name="open_for")

    async def open_for_all(self, sandbox_ids: Sequence[SandboxId]) -> Mapping[SandboxId, Sequence[Operation]]:
        """Return those of many."""

        def work() -> Mapping[SandboxId, Sequence[Operation]]:
            database, found = self._database, {}
            for sandbox_id in sandbox_ids:
                its_own = [database.read_operation(one) for one in database.open_operations(sandbox_id)]
                if its_own:
                    found[sandbox_id] = sorted(its_own, key=lambda one: one.created_at)
            return found

        return await self._link.call(work, repeatable=True, name="open_for_all")

    async def find(self, operation_ids: Sequence[OperationId]) -> Mapping[OperationId, Operation]:
        """Return many."""

        def work() -> Mapping[OperationId, Operation]:
            known = self._database.operations
            return {one: self._database.read_operation(known[one]) for one in operation_ids if one in known}

        return await self._link.call(work, repeatable=True, name="find_operations")

    def _in(self, seconds: float) -> datetime:
        return self._database.now() + timedelta(seconds=seconds)


def write_snapshot(database: MemoryDatabase, snapshot: Snapshot) -> bool:
    """Write how it stands, unless it is garbage or gone; say whether it was written."""
    stored = database.snapshots.get(snapshot.id)
    if stored is None or stored.state is SnapshotState.GARBAGE:
        return False
    database.snapshots[snapshot.id] = replace(
        stored,
        state=snapshot.state,
        worker_id=snapshot.worker_id,
        manifest=as_json(snapshot.manifest),
        size_bytes=snapshot.size_bytes,
        pause_ms=snapshot.pause_ms,
        error_message=snapshot.error_message,
    )
    return True


def _write_fate(database: MemoryDatabase, snapshot: Snapshot, *, at: datetime | None) -> None:
    """Write what became of a snapshot to the checkpoints that name it, while they are open."""
    state = _FATES.get(snapshot.state, CheckpointState.PROCESSING)
    for checkpoint in list(database.checkpoints.values()):
        is_open = checkpoint.state is CheckpointState.PROCESSING
        if checkpoint.snapshot_id != snapshot.id or not is_open:
            continue
        database.checkpoints[checkpoint.id] = replace(
            checkpoint,
            state=state,
            size_bytes=snapshot.size_bytes,
            ready_at=at if state is CheckpointState.READY else None,
            failed_at=at if state is CheckpointState.FAILED else None,
            error_message=snapshot.error_message,
        )
