"""Upload: bring a snapshot from its worker's disk to the object store, and say so once it is verified.

It has no end but success, unless nothing needs the snapshot any more: a state that exists
once is not safe. The worker does the work and goes on by itself after a restart; the
operation asks how far it is. What if it dies: another replica asks again. What if its host is
gone, by somebody's word: what the store has is durable, else it is lost, and a sandbox that slept
with it sleeps on with the newest durable state before it, which is kept until then.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import datetime

import msgspec
import structlog

from sandfleet.controlplane.dependencies import ControlPlane, sandbox_topic
from sandfleet.controlplane.operations.backoff import Backoff
from sandfleet.controlplane.operations.ending import Ending, end
from sandfleet.controlplane.operations.records import UNBOUNDED_S, ended, new_operation
from sandfleet.controlplane.operations.recover import decide, room_for
from sandfleet.controlplane.operations.snapshots import snapshot_of
from sandfleet.controlplane.operations.step import Definition, Run
from sandfleet.lifecycle.sandbox import SandboxEvent
from sandfleet.model.errors import NotFound, SandfleetError, SnapshotUnusable, StoreUnavailable
from sandfleet.model.ids import operation_id
from sandfleet.model.operation import Operation, OperationKind, OperationState
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.snapshot import Snapshot, SnapshotState
from sandfleet.model.worker import WorkerState
from sandfleet.planning.repair import Recovery
from sandfleet.wire.worker_messages import SnapshotState as Upload

POLL_FIRST_S = 0.1
POLL_MOST_S = 2.0
RETRY_MOST_S = 30.0
ACTOR = "upload"
DURABLE, FAILED, LOST = "durable", "failed", "lost"

log = structlog.get_logger(__name__)


def upload_operation(plane: ControlPlane, sandbox: Sandbox, snapshot: Snapshot) -> Operation | None:
    """Return the operation that makes the snapshot durable; None where there is no object store."""
    if plane.settings.blob_store_url is None:
        return None
    return new_operation(
        plane,
        sandbox,
        operation_id=operation_id(secrets.token_bytes(16)),
        kind=OperationKind.UPLOAD,
        step="upload",
        deadline_s=UNBOUNDED_S,
        arguments={"snapshot_id": snapshot.id},
    )


async def _upload(run: Run, operation: Operation) -> Operation:
    polling = Backoff(run.plane.clock, first_s=POLL_FIRST_S, most_s=POLL_MOST_S)
    trouble = Backoff(run.plane.clock, first_s=1.0, most_s=RETRY_MOST_S)
    while True:
        try:
            snapshot = await snapshot_of(run, operation)
        except NotFound:
            return await _unneeded(run, operation)
        if not snapshot.is_complete:
            return await _unneeded(run, operation)
        state, reason = await ask(run, snapshot)
        if DURABLE in (state.state, snapshot.state.value):
            return await _durable(run, operation, snapshot)
        if state.state == LOST:
            return await _lost(run, operation, snapshot)
        operation = await _with_progress(run, operation, state)
        if reason is not None:
            log.warning("upload_failed", snapshot_id=snapshot.id, reason=reason)
        await (polling if reason is None else trouble).wait()


async def _with_progress(run: Run, operation: Operation, state: Upload) -> Operation:
    """Write down how far the upload is, where that is news."""
    progress = {"bytes_done": state.bytes_done, "bytes_total": state.bytes_total}
    if state.bytes_total == 0 or progress == operation.progress:
        return operation
    return await run.plane.stores.operations.save(replace(operation, progress=progress))


async def ask(run: Run, snapshot: Snapshot) -> tuple[Upload, str | None]:
    """Have the worker upload it; return how it stands there, and why if that is bad."""
    if snapshot.worker_id is None:
        return Upload(snapshot_id=snapshot.id, state=FAILED), "no worker has it"
    try:
        worker = await run.plane.stores.workers.get(snapshot.worker_id)
        if worker.state is WorkerState.GONE:
            return await _of_gone(run, snapshot)
        state = await run.plane.worker_client.upload_snapshot(worker.id, worker.http_url, snapshot.id)
    except StoreUnavailable:
        raise
    except SandfleetError as error:
        return Upload(snapshot_id=snapshot.id, state=FAILED), error.message
    return state, state.reason or "no reason" if state.state == FAILED else None


async def _of_gone(run: Run, snapshot: Snapshot) -> tuple[Upload, str | None]:
    """Return how a snapshot stands whose host is no more: what the store has not got by now is lost."""
    stands = Upload(snapshot_id=snapshot.id, state=LOST)
    if run.plane.blobs is None:
        return stands, None
    try:
        await run.plane.blobs.manifest(snapshot.id)
    except NotFound:
        return stands, None
    except SandfleetError as error:
        return msgspec.structs.replace(stands, state=FAILED), error.message
    return msgspec.structs.replace(stands, state=DURABLE), None


async def _lost(run: Run, operation: Operation, snapshot: Snapshot) -> Operation:
    """Say that it failed; a sandbox that sleeps with it goes back to the newest durable state.

    One that is just being woken from it finds no place, and sleeps again: to say it then would end it.
    """
    error = SnapshotUnusable(f"the host of worker {snapshot.worker_id}, which alone had it, was lost")
    failed = replace(snapshot, state=SnapshotState.FAILED, error_message=error.message)
    hints = run.plane.wake_ups.subscribe(sandbox_topic(operation.sandbox_id))
    row = await run.fresh_row(operation)
    while row.snapshot_id == snapshot.id and row.state in (SandboxState.HIBERNATED, SandboxState.WAKING):
        older = await decide(run.plane, row, why=error.message, answering=None)
        if not isinstance(older, Recovery):
            break
        if row.state is SandboxState.HIBERNATED:
            done = await _fall_back(run, operation, failed, older, error)
            if done is not None:
                return done
        else:
            await anext(hints)
        row = await run.fresh_row(operation)
    done = ended(operation, OperationState.FAILED, at=run.plane.clock.now(), error=error)
    return await run.plane.stores.operations.finish(done, snapshot=failed)


async def _fall_back(
    run: Run, operation: Operation, failed: Snapshot, older: Recovery, error: SandfleetError
) -> Operation | None:
    """Let the sleeping sandbox name the older state; None when it sleeps no more."""

    def ending(before: Sandbox, now: datetime) -> Ending:
        after = replace(before, version=before.version + 1, changed_at=now)
        if before.snapshot_id == failed.id:
            size = room_for(older.snapshot, before)
            after = replace(after, snapshot_id=older.snapshot.id, resources=size)
        return Ending(
            sandbox=after, event=SandboxEvent.RECOVER, reason=older.reason, error=error, snapshot=failed
        )

    return await end(run, operation, state=SandboxState.HIBERNATED, actor=ACTOR, ending=ending)


async def _durable(run: Run, operation: Operation, snapshot: Snapshot) -> Operation:
    done = ended(operation, OperationState.SUCCEEDED, at=run.plane.clock.now())
    durable = replace(snapshot, state=SnapshotState.DURABLE, error_message=None)
    await run.plane.stores.operations.finish(done, snapshot=durable)
    await run.plane.wake_ups.publish(sandbox_topic(operation.sandbox_id))
    return done


async def _unneeded(run: Run, operation: Operation) -> Operation:
    done = ended(operation, OperationState.CANCELLED, at=run.plane.clock.now())
    return await run.plane.stores.operations.finish(done)


UPLOAD = Definition(steps={"upload": _upload})
