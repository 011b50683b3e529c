"""Snapshots and checkpoints in PostgreSQL (ports: `ports.saved_states`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, delete, exists, func, or_, select, update

from sandfleet.adapters.postgres import saved_rows
from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.sealing import Sealer
from sandfleet.adapters.postgres.tables import checkpoints, operations, sandboxes, snapshots
from sandfleet.adapters.postgres.terms import require_term
from sandfleet.model.checkpoint import Checkpoint, CheckpointState
from sandfleet.model.errors import NotFound
from sandfleet.model.ids import CheckpointId, OrganisationId, SandboxId, SnapshotId, WorkerId
from sandfleet.model.operation import OperationKind
from sandfleet.model.sandbox import TERMINAL_STATES, SandboxState
from sandfleet.model.snapshot import Snapshot, SnapshotState

_GARBAGE, _DURABLE = SnapshotState.GARBAGE.value, SnapshotState.DURABLE.value
_NEVER_BACK = [SandboxState.STOPPED.value, SandboxState.FAILED.value]
_TERMINAL = sorted(state.value for state in TERMINAL_STATES)
_GET_SNAPSHOT = select(snapshots).where(snapshots.c.id == bindparam("id"), snapshots.c.state != _GARBAGE)
_WRITE = update(snapshots).where(snapshots.c.id == bindparam("which"), snapshots.c.state != _GARBAGE)
_newest = snapshots.alias("newest")
_owner = sandboxes.alias("owner")
_IS_NEEDED = or_(
    exists().where(sandboxes.c.snapshot_id == snapshots.c.id, sandboxes.c.state.not_in(_NEVER_BACK)),
    exists().where(
        checkpoints.c.snapshot_id == snapshots.c.id, checkpoints.c.state != CheckpointState.FAILED.value
    ),
    exists().where(
        operations.c.state == "running",
        operations.c.kind != OperationKind.UPLOAD.value,
        operations.c.arguments["snapshot_id"].astext == snapshots.c.id,
    ),
    # The state before stays until the one that follows it is safe.
    (snapshots.c.state == _DURABLE)
    & exists(
        select(_owner.c.id)
        .join(_newest, _newest.c.id == _owner.c.snapshot_id)
        .where(
            _owner.c.id == snapshots.c.sandbox_id,
            _owner.c.state.not_in(_TERMINAL),
            _newest.c.id != snapshots.c.id,
            _newest.c.state != _DURABLE,
        )
    ),
)
_ONLY_ON = (
    select(snapshots)
    .where(
        snapshots.c.worker_id == bindparam("worker"),
        snapshots.c.state.in_([SnapshotState.SAVING.value, SnapshotState.LOCAL.value]),
    )
    .order_by(snapshots.c.id)
)
_UNNEEDED = (
    select(snapshots.c.id)
    .where(snapshots.c.state != _GARBAGE, ~_IS_NEEDED)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True, key_share=True)
    .cte("unneeded")
)
_MARK = update(snapshots).where(snapshots.c.id.in_(select(_UNNEEDED.c.id))).values(state=_GARBAGE)
_LIST_GARBAGE = select(snapshots).where(snapshots.c.state == _GARBAGE).limit(bindparam("limit"))
_REMOVE = delete(snapshots).where(snapshots.c.id == bindparam("id"), snapshots.c.state == _GARBAGE)
_COMPLETE_OF = (
    select(snapshots)
    .where(
        snapshots.c.sandbox_id == bindparam("sandbox"),
        snapshots.c.state.in_([SnapshotState.LOCAL.value, _DURABLE]),
    )
    .order_by(snapshots.c.created_at.desc(), snapshots.c.id.desc())
    .limit(100)
)
_WITH_ROW = select(snapshots.c.id).where(snapshots.c.id.in_(bindparam("ids", expanding=True)))
_KEPT = select(snapshots.c.id).where(snapshots.c.state != _GARBAGE)
_GET = select(checkpoints).where(
    checkpoints.c.organisation_id == bindparam("organisation_id"), checkpoints.c.id == bindparam("id")
)
_LIST = (
    select(checkpoints)
    .where(
        checkpoints.c.organisation_id == bindparam("organisation_id"),
        checkpoints.c.sandbox_id == bindparam("sandbox"),
    )
    .order_by(checkpoints.c.created_at.desc(), checkpoints.c.id.desc())
)
_DELETE = delete(checkpoints).where(
    checkpoints.c.organisation_id == bindparam("organisation_id"),
    checkpoints.c.sandbox_id == bindparam("sandbox"),
    checkpoints.c.id == bindparam("id"),
)
_COUNT = select(func.count()).where(
    checkpoints.c.sandbox_id == bindparam("sandbox"), checkpoints.c.state != CheckpointState.FAILED.value
)


class PostgresSnapshotRecords:
    """Which captures there are, and how safe each is."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, snapshot_id: SnapshotId) -> Snapshot:
        """Return it."""
        found = await self._database.statement(
            lambda connection: connection.execute(_GET_SNAPSHOT, {"id": snapshot_id}), repeatable=True
        )
        row = found.first()
        if row is None:
            raise NotFound(f"snapshot {snapshot_id} not found")
        return saved_rows.snapshot_from(row)

    async def save(self, snapshot: Snapshot) -> None:
        """Write how it stands."""
        values = saved_rows.snapshot_values(snapshot)
        statement = _WRITE.values({name: values[name] for name in saved_rows.SNAPSHOT_CHANGES})
        result = await self._database.statement(
            lambda connection: connection.execute(statement, {"which": snapshot.id}), repeatable=True
        )
        if result.rowcount == 0:
            raise NotFound(f"snapshot {snapshot.id} not found")

    async def complete_of(self, sandbox_id: SandboxId) -> Sequence[Snapshot]:
        """Return what a VM of the sandbox can be started from."""
        found = await self._database.statement(
            lambda connection: connection.execute(_COMPLETE_OF, {"sandbox": sandbox_id}), repeatable=True
        )
        return [saved_rows.snapshot_from(row) for row in found]

    async def only_on(self, worker_id: WorkerId) -> Sequence[Snapshot]:
        """Return what would be lost with the worker."""
        found = await self._database.statement(
            lambda connection: connection.execute(_ONLY_ON, {"worker": worker_id}), repeatable=True
        )
        return [saved_rows.snapshot_from(row) for row in found]

    async def mark_garbage(self, *, term: int, limit: int = 100) -> Sequence[Snapshot]:
        """Mark what nothing needs, and return all that is marked."""

        async def work(connection: Any) -> Sequence[Snapshot]:
            await require_term(connection, term)
            await connection.execute(_MARK, {"limit": limit})
            found = await connection.execute(_LIST_GARBAGE, {"limit": limit})
            return [saved_rows.snapshot_from(row) for row in found]

        return await self._database.statement(work, repeatable=True)

    async def remove(self, snapshot_id: SnapshotId) -> None:
        """Delete the row of what is gone."""
        await self._database.statement(
            lambda connection: connection.execute(_REMOVE, {"id": snapshot_id}), repeatable=True
        )

    async def with_row(self, snapshots: Sequence[SnapshotId]) -> frozenset[SnapshotId]:
        """Return those that have a row."""
        found = await self._database.statement(
            lambda connection: connection.execute(_WITH_ROW, {"ids": list(snapshots)}), repeatable=True
        )
        return frozenset(SnapshotId(row.id) for row in found)

    async def kept(self) -> Sequence[SnapshotId]:
        """Return all that is not garbage."""
        found = await self._database.statement(lambda connection: connection.execute(_KEPT), repeatable=True)
        return [SnapshotId(row.id) for row in found]


class PostgresCheckpointRecords:
    """Checkpoints of tenants."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    async def get(self, organisation_id: OrganisationId, checkpoint_id: CheckpointId) -> Checkpoint:
        """Return it."""
        parameters = {"organisation_id": organisation_id, "id": checkpoint_id}
        found = await self._database.statement(
            lambda connection: connection.execute(_GET, parameters), repeatable=True
        )
        row = found.first()
        if row is None:
            raise NotFound("checkpoint not found")
        return saved_rows.checkpoint_from(row, self._sealer)

    async def list(self, organisation_id: OrganisationId, sandbox_id: SandboxId) -> Sequence[Checkpoint]:
        """Return those of one sandbox."""
        parameters = {"organisation_id": organisation_id, "sandbox": sandbox_id}
        found = await self._database.statement(
            lambda connection: connection.execute(_LIST, parameters), repeatable=True
        )
        return [saved_rows.checkpoint_from(row, self._sealer) for row in found]

    async def count(self, sandbox_id: SandboxId) -> int:
        """Return how many count against the limit."""
        found = await self._database.statement(
            lambda connection: connection.execute(_COUNT, {"sandbox": sandbox_id}), repeatable=True
        )
        return int(found.scalar_one())

    async def delete(
        self, organisation_id: OrganisationId, sandbox_id: SandboxId, checkpoint_id: CheckpointId
    ) -> None:
        """Delete the row; its snapshot goes when nothing else needs it."""
        parameters = {"organisation_id": organisation_id, "sandbox": sandbox_id, "id": checkpoint_id}
        result = await self._database.statement(lambda connection: connection.execute(_DELETE, parameters))
        if result.rowcount == 0:
            raise NotFound("checkpoint not found")
