"""Rows of snapshots as operations read and write them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import msgspec

from sandfleet.controlplane.dependencies import ControlPlane, sandbox_topic
from sandfleet.controlplane.operations.step import Run
from sandfleet.model.errors import NotFound, SnapshotUnusable
from sandfleet.model.ids import SnapshotId
from sandfleet.model.operation import Operation
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.snapshot import Snapshot, SnapshotState
from sandfleet.planning.placement import SavedState
from sandfleet.wire.snapshot_manifest import SnapshotManifest
from sandfleet.wire.worker_messages import SavedVm, SnapshotSource


def new_snapshot(plane: ControlPlane, sandbox: Sandbox, snapshot_id: SnapshotId) -> Snapshot:
    """Return the row of a capture that is about to be made of the sandbox."""
    return Snapshot(
        id=snapshot_id,
        organisation_id=sandbox.organisation_id,
        sandbox_id=sandbox.id,
        state=SnapshotState.SAVING,
        created_at=plane.clock.now(),
        worker_id=sandbox.worker_id,
    )


def complete(snapshot: Snapshot, saved: SavedVm) -> Snapshot:
    """Return the row of a capture that stands on its worker's disk."""
    return replace(
        snapshot,
        state=SnapshotState.LOCAL,
        manifest=msgspec.to_builtins(saved.manifest, str_keys=True),
        size_bytes=saved.size_bytes,
        pause_ms=saved.pause_ms,
    )


async def snapshot_of(run: Run, operation: Operation) -> Snapshot:
    """Return the snapshot that the operation is about."""
    return await run.plane.stores.snapshots.get(SnapshotId(operation.arguments["snapshot_id"]))


async def failed_snapshot(run: Run, operation: Operation, reason: str) -> Snapshot | None:
    """Return the operation's snapshot as one that failed, to be written with the operation's end."""
    try:
        snapshot = await snapshot_of(run, operation)
    except NotFound:
        return None
    return replace(snapshot, state=SnapshotState.FAILED, error_message=reason)


async def until_captured(run: Run, sandbox: Sandbox) -> None:
    """Wait while what the sandbox starts from is still being captured; its operation's deadline bounds it."""
    if sandbox.snapshot_id is None:
        return
    snapshots = run.plane.stores.snapshots
    with suppress(NotFound):
        source = await snapshots.get(sandbox.snapshot_id)
        hints = run.plane.wake_ups.subscribe(sandbox_topic(source.sandbox_id))
        while (await snapshots.get(sandbox.snapshot_id)).state is SnapshotState.SAVING:
            await anext(hints)


async def usable_snapshot(run: Run, sandbox: Sandbox) -> Snapshot | None:
    """Return what the sandbox starts from, None for a template; SnapshotUnusable if that is not to be had."""
    if sandbox.snapshot_id is None:
        return None
    try:
        snapshot = await run.plane.stores.snapshots.get(sandbox.snapshot_id)
    except NotFound as error:
        raise SnapshotUnusable("the saved state is not there any more") from error
    if not snapshot.is_complete:
        raise SnapshotUnusable(
            f"the saved state is {snapshot.state}: {snapshot.error_message or 'no reason'}"
        )
    return snapshot


def saved_state(snapshot: Snapshot | None) -> SavedState | None:
    """Return what placement must know of it."""
    if snapshot is None:
        return None
    shape = snapshot.manifest.get("shape", {})
    return SavedState(
        worker_id=snapshot.worker_id,
        is_durable=snapshot.state is SnapshotState.DURABLE,
        accelerator=shape.get("accelerator", ""),
        host_cpu=shape.get("host_cpu", ""),
    )


def source_of(snapshot: Snapshot | None, sandbox: Sandbox) -> SnapshotSource | None:
    """Return what a worker must know of it. What is being created from it is a fork of its sandbox."""
    if snapshot is None:
        return None
    try:
        manifest = msgspec.convert(snapshot.manifest, SnapshotManifest, str_keys=True)
    except msgspec.ValidationError as error:
        raise SnapshotUnusable("the saved state has a description that cannot be read") from error
    return SnapshotSource(
        snapshot_id=snapshot.id, is_fork=sandbox.state is SandboxState.CREATING, manifest=manifest
    )
