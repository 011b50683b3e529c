"""Checkpoint: capture a running VM; an upload makes it `ready`.

The instant that is captured lies before the operation's end, so before the answer to
whoever asked. The sandbox stays `running`: a failure costs nothing but the checkpoint.

What if it dies
    after the rows       another replica takes over at `capture`: the same snapshot id is one capture
    after the capture    the same answer again; the rows are written and the upload begins
    the sandbox ends     the checkpoint fails, if its capture was not complete
    the worker is away   repeated until the deadline, then `failed`; a capture that nobody names
                         any more is collected from the worker once it answers
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace

from sandfleet.controlplane.dependencies import ControlPlane, sandbox_topic
from sandfleet.controlplane.operations.backoff import Backoff
from sandfleet.controlplane.operations.hibernate import hibernation_ids
from sandfleet.controlplane.operations.owner import owner
from sandfleet.controlplane.operations.records import ended, log_row, new_operation
from sandfleet.controlplane.operations.snapshots import (
    complete,
    failed_snapshot,
    new_snapshot,
    snapshot_of,
)
from sandfleet.controlplane.operations.step import Definition, Run
from sandfleet.controlplane.operations.upload import upload_operation
from sandfleet.model.checkpoint import CHECKPOINTS_MAX, Checkpoint, CheckpointState
from sandfleet.model.errors import (
    BadRequest,
    Gone,
    SandfleetError,
    StoreUnavailable,
    Unavailable,
)
from sandfleet.model.ids import CheckpointId, OperationId, SnapshotId, record_uuid
from sandfleet.model.operation import Operation, OperationKind, OperationState
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.wire.worker_messages import CaptureVm, SavedVm

ACTOR = "checkpoint"


def checkpoint_ids() -> Mapping[str, str]:
    """Return fresh ids for one checkpoint."""
    return {**hibernation_ids(), "checkpoint_id": record_uuid(secrets.token_bytes(16))}


async def begin_checkpoint(
    plane: ControlPlane,
    sandbox: Sandbox,
    *,
    ids: Mapping[str, str],
    name: str,
    actor: str,
    term: int | None = None,
) -> tuple[Checkpoint, Operation]:
    """Write the checkpoint with its snapshot and operation; StaleVersion, name_taken, checkpoint_limit.

    `term`: the leader takes it, StaleTerm; how many a sandbox may have is its owner's limit and not his.
    """
    if term is None and await plane.stores.checkpoints.count(sandbox.id) >= CHECKPOINTS_MAX:
        raise BadRequest(f"a sandbox can have {CHECKPOINTS_MAX} checkpoints", code="checkpoint_limit")
    now = plane.clock.now()
    snapshot = new_snapshot(plane, sandbox, SnapshotId(ids["snapshot_id"]))
    checkpoint = _new_checkpoint(sandbox, CheckpointId(ids["checkpoint_id"]), name=name)
    checkpoint = replace(checkpoint, snapshot_id=snapshot.id, created_at=now)
    operation = new_operation(
        plane,
        sandbox,
        operation_id=OperationId(ids["operation_id"]),
        kind=OperationKind.CHECKPOINT,
        step="capture",
        deadline_s=plane.settings.save_deadline_s,
        arguments={"snapshot_id": snapshot.id, "checkpoint_id": checkpoint.id},
    )
    # The next version, so that of two verbs that read the same row one is told to look again.
    after = replace(sandbox, version=sandbox.version + 1, changed_at=now, active_at=now)
    log = log_row(
        sandbox,
        after,
        event="checkpoint_requested",
        actor=actor,
        reason="requested",
        operation=operation,
        detail={"checkpoint_id": checkpoint.id},
    )
    await plane.stores.sandboxes.start_operation(
        after, operation, log, term=term, snapshot=snapshot, checkpoint=checkpoint
    )
    return checkpoint, operation


def _new_checkpoint(sandbox: Sandbox, checkpoint_id: CheckpointId, *, name: str) -> Checkpoint:
    return Checkpoint(
        id=checkpoint_id,
        organisation_id=sandbox.organisation_id,
        sandbox_id=sandbox.id,
        snapshot_id=None,
        name=name,
        state=CheckpointState.PROCESSING,
        created_at=sandbox.changed_at,
        template=sandbox.template,
        region=sandbox.region,
        resources=sandbox.resources,
        timeout_s=sandbox.timeout_s,
        port=sandbox.port,
        network_enabled=sandbox.network_enabled,
        envs=sandbox.envs,
        metadata=sandbox.metadata,
        template_version=sandbox.template_version,
    )


async def _capture(run: Run, operation: Operation) -> Operation:
    try:
        saved = await captured(run, operation)
    except StoreUnavailable:
        raise
    except SandfleetError as error:
        return await fail(run, operation, error)
    snapshot = complete(await snapshot_of(run, operation), saved)
    now = run.plane.clock.now()
    sandbox = replace(await run.row(operation), changed_at=now)
    upload = upload_operation(run.plane, sandbox, snapshot)
    done = ended(operation, OperationState.SUCCEEDED, at=now)
    elapsed_ms = int((now - operation.created_at).total_seconds() * 1000)
    log = log_row(
        sandbox,
        sandbox,
        event="captured",
        actor=ACTOR,
        reason="the worker captured it",
        operation=operation,
        detail={"elapsed_ms": elapsed_ms, "pause_ms": saved.pause_ms, "size_bytes": saved.size_bytes},
    )
    await run.plane.stores.operations.finish(done, transition=log, follow_up=upload, snapshot=snapshot)
    if upload is not None:
        run.begin(upload)
    await run.plane.wake_ups.publish(sandbox_topic(operation.sandbox_id))
    return done


async def captured(run: Run, operation: Operation) -> SavedVm:
    """Have the worker capture the VM, repeated while it does not answer; Gone when the sandbox has ended."""
    backoff = Backoff(run.plane.clock, most_s=5.0)
    while True:
        sandbox = await run.fresh_row(operation)
        if sandbox.state is not SandboxState.RUNNING or sandbox.worker_id is None:
            raise Gone("the sandbox was stopped before it was captured")
        order = CaptureVm(epoch=sandbox.epoch, snapshot_id=operation.arguments["snapshot_id"])
        try:
            worker = await owner(run, sandbox.worker_id)
            return await run.plane.worker_client.capture_vm(worker.id, worker.http_url, sandbox.id, order)
        except StoreUnavailable:
            raise
        except Unavailable:
            await backoff.wait()


async def fail(run: Run, operation: Operation, error: SandfleetError) -> Operation:
    """End it; its checkpoint is `failed` with the reason, the sandbox as it was."""
    snapshot = await failed_snapshot(run, operation, error.message)
    done = ended(operation, OperationState.FAILED, at=run.plane.clock.now(), error=error)
    return await run.plane.stores.operations.finish(done, snapshot=snapshot)


CHECKPOINT = Definition(steps={"capture": _capture}, give_up=fail)
