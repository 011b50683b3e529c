"""Rows of snapshots and checkpoints to values of the model and back, and what writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import CTE, Row, exists, select, update

from sandfleet.adapters.postgres.sealing import Sealer
from sandfleet.adapters.postgres.statements import Parameters, bind, insert_from, prefixed
from sandfleet.adapters.postgres.tables import checkpoints, snapshots
from sandfleet.model.checkpoint import Checkpoint, CheckpointState
from sandfleet.model.ids import CheckpointId, OrganisationId, SandboxId, SnapshotId, WorkerId
from sandfleet.model.resources import Resources
from sandfleet.model.snapshot import Snapshot, SnapshotState

SNAPSHOT_CHANGES = ("state", "worker_id", "manifest", "size_bytes", "pause_ms", "error_message")
_CHECKPOINT_CHANGES = ("state", "size_bytes", "ready_at", "failed_at", "error_message")


def snapshot_values(snapshot: Snapshot) -> Parameters:
    """Return the columns of a snapshot."""
    return {
        "id": snapshot.id,
        "organisation_id": snapshot.organisation_id,
        "sandbox_id": snapshot.sandbox_id,
        "state": snapshot.state.value,
        "created_at": snapshot.created_at,
        "worker_id": snapshot.worker_id,
        "manifest": dict(snapshot.manifest),
        "size_bytes": snapshot.size_bytes,
        "pause_ms": snapshot.pause_ms,
        "error_message": snapshot.error_message,
    }


def snapshot_from(row: Row[Any]) -> Snapshot:
    """Return the snapshot of a row."""
    return Snapshot(
        id=SnapshotId(row.id),
        organisation_id=OrganisationId(row.organisation_id),
        sandbox_id=SandboxId(row.sandbox_id),
        state=SnapshotState(row.state),
        created_at=row.created_at,
        worker_id=None if row.worker_id is None else WorkerId(row.worker_id),
        manifest=row.manifest,
        size_bytes=row.size_bytes,
        pause_ms=row.pause_ms,
        error_message=row.error_message,
    )


def checkpoint_values(checkpoint: Checkpoint, sealer: Sealer) -> Parameters:
    """Return the columns of a checkpoint."""
    envs = msgspec.json.encode(dict(checkpoint.envs)) if checkpoint.envs else None
    return {
        "id": checkpoint.id,
        "organisation_id": checkpoint.organisation_id,
        "sandbox_id": checkpoint.sandbox_id,
        "snapshot_id": checkpoint.snapshot_id,
        "name": checkpoint.name,
        "state": checkpoint.state.value,
        "created_at": checkpoint.created_at,
        "template": checkpoint.template,
        "region": checkpoint.region,
        "memory_mib": checkpoint.resources.memory_mib,
        "cpu_count": checkpoint.resources.cpu_count,
        "disk_mib": checkpoint.resources.disk_mib,
        "timeout_s": checkpoint.timeout_s,
        "port": checkpoint.port,
        "network_enabled": checkpoint.network_enabled,
        "envs_sealed": sealer.seal(envs, context=f"envs of {checkpoint.id}") if envs else None,
        "metadata": dict(checkpoint.metadata),
        "template_version": checkpoint.template_version,
        "size_bytes": checkpoint.size_bytes,
        "ready_at": checkpoint.ready_at,
        "failed_at": checkpoint.failed_at,
        "error_message": checkpoint.error_message,
    }


def checkpoint_from(row: Row[Any], sealer: Sealer) -> Checkpoint:
    """Return the checkpoint of a row."""
    envs: Mapping[str, str] = {}
    if row.envs_sealed is not None:
        envs = msgspec.json.decode(sealer.open(row.envs_sealed, context=f"envs of {row.id}"))
    return Checkpoint(
        id=CheckpointId(row.id),
        organisation_id=OrganisationId(row.organisation_id),
        sandbox_id=SandboxId(row.sandbox_id),
        snapshot_id=None if row.snapshot_id is None else SnapshotId(row.snapshot_id),
        name=row.name,
        state=CheckpointState(row.state),
        created_at=row.created_at,
        template=row.template,
        region=row.region,
        resources=Resources(row.memory_mib, row.cpu_count, row.disk_mib),
        timeout_s=row.timeout_s,
        port=row.port,
        network_enabled=row.network_enabled,
        envs=envs,
        metadata=row.metadata,
        template_version=row.template_version,
        size_bytes=row.size_bytes,
        ready_at=row.ready_at,
        failed_at=row.failed_at,
        error_message=row.error_message,
    )


def insert_snapshot(held: CTE) -> CTE:
    """Insert a snapshot."""
    columns = [column.name for column in snapshots.columns]
    source = select(*[bind(snapshots, "n_", name) for name in columns])
    return insert_from(snapshots, columns, source, held).returning(snapshots.c.id).cte("new_snapshot")


def update_snapshot(held: CTE) -> CTE:
    """Write what changes in a snapshot's life."""
    return (
        update(snapshots)
        .where(
            snapshots.c.id == bind(snapshots, "n_", "id"),
            snapshots.c.state != SnapshotState.GARBAGE.value,
            exists(select(held)),
        )
        .values({name: bind(snapshots, "n_", name) for name in SNAPSHOT_CHANGES})
        .returning(snapshots.c.id)
        .cte("written_snapshot")
    )


def insert_checkpoint(held: CTE) -> CTE:
    """Insert a checkpoint."""
    columns = [column.name for column in checkpoints.columns]
    source = select(*[bind(checkpoints, "c_", name) for name in columns])
    return insert_from(checkpoints, columns, source, held).returning(checkpoints.c.id).cte("new_checkpoint")


def update_checkpoints_of(held: CTE) -> CTE:
    """Write the fate of a snapshot to the checkpoint that names it, while that is still open."""
    return (
        update(checkpoints)
        .where(
            checkpoints.c.snapshot_id == bind(snapshots, "n_", "id"),
            checkpoints.c.state == CheckpointState.PROCESSING.value,
            exists(select(held)),
        )
        .values({name: bind(checkpoints, "c_", name) for name in _CHECKPOINT_CHANGES})
        .returning(checkpoints.c.id)
        .cte("written_checkpoint")
    )


def snapshot_parameters(snapshot: Snapshot) -> Parameters:
    """Return the parameters of `insert_snapshot` and `update_snapshot`."""
    return prefixed("n_", snapshot_values(snapshot))


def checkpoint_parameters(checkpoint: Checkpoint, sealer: Sealer) -> Parameters:
    """Return the parameters of `insert_checkpoint`."""
    return prefixed("c_", checkpoint_values(checkpoint, sealer))


def fate_parameters(snapshot: Snapshot, *, at: Any) -> Parameters:
    """Return the parameters of `update_checkpoints_of`, which follow from how the snapshot stands."""
    state = _FATES.get(snapshot.state, CheckpointState.PROCESSING)
    return prefixed(
        "c_",
        {
            "state": state.value,
            "size_bytes": snapshot.size_bytes,
            "ready_at": at if state is CheckpointState.READY else None,
            "failed_at": at if state is CheckpointState.FAILED else None,
            "error_message": snapshot.error_message,
        },
    )


_FATES = {
    SnapshotState.DURABLE: CheckpointState.READY,
    SnapshotState.FAILED: CheckpointState.FAILED,
}
