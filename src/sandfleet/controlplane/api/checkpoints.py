"""`…/checkpoints`: create, list, restore, delete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast
from uuid import UUID

from sandfleet.controlplane.api.field_values import check_text, invalid
from sandfleet.controlplane.api.hibernation import require_store
from sandfleet.controlplane.api.paths import SANDBOX
from sandfleet.controlplane.api.verbs import begin_in_turn, needs_running, outcome, resumed, verb_ids
from sandfleet.controlplane.dependencies import sandbox_topic
from sandfleet.controlplane.http.answers import Answer, list_answer, model_answer, no_content
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import LIST_PARAMETERS, Call, Endpoint
from sandfleet.controlplane.http.drain import shutting_down
from sandfleet.controlplane.http.paging import page_of
from sandfleet.controlplane.proxy.readiness import find_sandbox, gone
from sandfleet.model.checkpoint import Checkpoint, CheckpointState
from sandfleet.model.errors import BadRequest, Conflict, NotFound, SnapshotUnusable
from sandfleet.model.ids import CheckpointId
from sandfleet.model.operation import Operation, OperationKind, OperationState
from sandfleet.model.sandbox import Sandbox
from sandfleet.wire.public_saved import CheckpointBody, CreateCheckpoint, RestoringBody, UploadBody

NAME_LENGTH_MAX = 128
RESTORE_READY_WAIT_S = 25.0
KIND = "full"
_NO_UPLOADS: Mapping[str, UploadBody] = {}
CHECKPOINT = SANDBOX + "/checkpoints/{cp}"


async def create_checkpoint(call: Call) -> Answer:
    """Capture a running sandbox; the instant lies before the answer, which is `processing`."""
    body = cast(CreateCheckpoint, call.model)

    def check(sandbox: Sandbox) -> None:
        require_store(call)
        _check_fields(body)
        needs_running(sandbox)

    async def begin(sandbox: Sandbox) -> Operation:
        _, operation = await call.edge.lifecycle.checkpoint(
            sandbox, ids=call.fixed, name=body.name or "", actor=call.principal.actor
        )
        return operation

    operation = await resumed(call) or await begin_in_turn(call, begin, check=check)
    operation = await outcome(call, operation)
    found = await call.edge.plane.stores.checkpoints.get(
        operation.organisation_id, CheckpointId(operation.arguments["checkpoint_id"])
    )
    return model_answer(201, checkpoint_body(found))


def _check_fields(body: CreateCheckpoint) -> None:
    if not body.name or not body.name.strip():
        raise BadRequest("name is required")
    check_text("name", body.name)
    if len(body.name) > NAME_LENGTH_MAX:
        raise invalid(f"name must have at most {NAME_LENGTH_MAX} characters")
    if body.kind is not None and body.kind != KIND:
        raise invalid(f"kind must be {KIND}")


async def list_checkpoints(call: Call) -> Answer:
    """Return all of a sandbox, newest first, in every status of it."""
    sandbox = await find_sandbox(call.edge, call.principal.organisation_id, call.values["id"])
    found = await call.edge.plane.stores.checkpoints.list(sandbox.organisation_id, sandbox.id)
    uploads = await _uploads(call, sandbox) if any(map(_is_processing, found)) else {}
    page, headers = page_of(call, found, place=lambda one: (one.created_at, one.id))
    return list_answer([checkpoint_body(one, uploads=uploads) for one in page], headers=headers)


def _is_processing(checkpoint: Checkpoint) -> bool:
    return checkpoint.state is CheckpointState.PROCESSING


async def _uploads(call: Call, sandbox: Sandbox) -> Mapping[str, UploadBody]:
    """Return how far the uploads of the sandbox's snapshots are, by snapshot."""
    still_open = await call.edge.plane.stores.operations.open_for(sandbox.id)
    return {
        one.arguments["snapshot_id"]: UploadBody(
            bytes_done=one.progress["bytes_done"], bytes_total=one.progress["bytes_total"]
        )
        for one in still_open
        if one.kind is OperationKind.UPLOAD and one.progress
    }


async def delete_checkpoint(call: Call) -> Answer:
    """Delete one; sandboxes made from it live on."""
    sandbox = await find_sandbox(call.edge, call.principal.organisation_id, call.values["id"])
    name = checkpoint_id(call)
    await call.edge.plane.stores.checkpoints.delete(sandbox.organisation_id, sandbox.id, name)
    return no_content()


async def restore_checkpoint(call: Call) -> Answer:
    """Bring the sandbox back to the instant of the checkpoint; calls that come meanwhile wait."""
    operation = await resumed(call) or await _begin_restore(call)
    operation = await outcome(call, operation, fails=False)
    if operation.state is OperationState.FAILED and operation.error_code == SnapshotUnusable.code:
        raise unusable(operation.error_message)
    if operation.state is not OperationState.RUNNING:
        await outcome(call, operation)
    sandbox_id, name = operation.sandbox_id, checkpoint_id(call)
    return model_answer(200, RestoringBody(sandbox_id=sandbox_id, checkpoint_id=name, status="restoring"))


async def _begin_restore(call: Call) -> Operation:
    """Begin it once the checkpoint is ready and it is the sandbox's turn."""
    sandbox = await find_sandbox(call.edge, call.principal.organisation_id, call.values["id"])
    if sandbox.is_terminal:
        raise gone(sandbox)
    name = checkpoint_id(call)
    checkpoint = await call.edge.plane.stores.checkpoints.get(sandbox.organisation_id, name)
    if checkpoint.sandbox_id != sandbox.id:
        raise BadRequest("the checkpoint is of another sandbox", code="checkpoint_mismatch")
    needs_running(sandbox)
    ready = await until_ready(call, checkpoint, seconds=RESTORE_READY_WAIT_S)
    return await begin_in_turn(
        call,
        lambda row: call.edge.lifecycle.restore(row, ready, ids=call.fixed, actor=call.principal.actor),
        check=needs_running,
    )


def checkpoint_id(call: Call) -> CheckpointId:
    """Return the id of the path; BadRequest for what is no UUID."""
    try:
        return CheckpointId(str(UUID(call.values["cp"])))
    except ValueError as error:
        raise BadRequest("a checkpoint id is a UUID") from error


async def until_ready(call: Call, checkpoint: Checkpoint, *, seconds: float) -> Checkpoint:
    """Return the checkpoint when it is ready, waiting up to `seconds`."""
    plane = call.edge.plane
    until = call.received_at + seconds
    hints = plane.wake_ups.subscribe(sandbox_topic(checkpoint.sandbox_id))
    while checkpoint.state is CheckpointState.PROCESSING:
        if plane.clock.monotonic() >= until:
            raise Conflict("the checkpoint is not ready yet", code="checkpoint_not_ready")
        if call.edge.drain.is_hurried:
            raise shutting_down()
        await anext(hints)
        checkpoint = await plane.stores.checkpoints.get(checkpoint.organisation_id, checkpoint.id)
    if checkpoint.state is CheckpointState.FAILED:
        raise unusable(checkpoint.error_message)
    return checkpoint


def unusable(reason: str | None) -> BadRequest:
    """Return the error of a checkpoint that nothing can be started from."""
    return BadRequest(f"the checkpoint has failed: {reason or 'no reason'}", code="checkpoint_failed")


def checkpoint_body(
    checkpoint: Checkpoint, *, uploads: Mapping[str, UploadBody] = _NO_UPLOADS
) -> CheckpointBody:
    """Return a checkpoint as clients see it; the keys are names, not places."""
    key = checkpoint.snapshot_id if checkpoint.state is CheckpointState.READY else None
    size = checkpoint.resources
    return CheckpointBody(
        id=checkpoint.id,
        sandbox_id=checkpoint.sandbox_id,
        org_id=checkpoint.organisation_id,
        name=checkpoint.name,
        kind=KIND,
        status=checkpoint.state.value,
        rootfs_s3_key=f"{key}/root" if key else "",
        workspace_s3_key=f"{key}/data" if key else "",
        size_bytes=checkpoint.size_bytes,
        memory_mb=size.memory_mib,
        sandbox_config={
            "templateID": checkpoint.template,
            "memoryMB": size.memory_mib,
            "cpuCount": size.cpu_count,
            "diskMB": size.disk_mib,
            "timeout": checkpoint.timeout_s,
            "port": checkpoint.port,
            "networkEnabled": checkpoint.network_enabled,
            "metadata": dict(checkpoint.metadata),
        },
        is_public=False,
        created_at=checkpoint.created_at,
        ready_at=checkpoint.ready_at,
        failed_at=checkpoint.failed_at,
        error_msg=checkpoint.error_message,
        upload=uploads.get(checkpoint.snapshot_id or "") if _is_processing(checkpoint) else None,
    )


async def find_checkpoint(call: Call) -> Checkpoint:
    """Return the organisation's checkpoint of the path."""
    name = checkpoint_id(call)
    try:
        return await call.edge.plane.stores.checkpoints.get(call.principal.organisation_id, name)
    except NotFound as error:
        raise NotFound("checkpoint not found") from error


_ERRORS = ("not_found", "gone", "operation_in_progress", "invalid_argument", "not_ready")

ENDPOINTS = (
    Endpoint(
        method="POST",
        paths=(f"{SANDBOX}/checkpoints",),
        handler=create_checkpoint,
        summary="Take a checkpoint of a running sandbox, which goes on",
        access=Access.ORGANISATION,
        body=CreateCheckpoint,
        answers={201: CheckpointBody},
        errors=(
            *_ERRORS,
            "not_running",
            "checkpoint_limit",
            "name_taken",
            "guest_disk_full",
            "agent_unresponsive",
            "disk_full",
            "not_available",
        ),
        changes=True,
        fixes=verb_ids,
        resumes=True,
    ),
    Endpoint(
        method="GET",
        paths=(f"{SANDBOX}/checkpoints",),
        handler=list_checkpoints,
        summary="The checkpoints of a sandbox, newest first",
        access=Access.ORGANISATION,
        answers={200: list[CheckpointBody]},
        errors=("not_found", "invalid_argument"),
        parameters=LIST_PARAMETERS,
    ),
    Endpoint(
        method="DELETE",
        paths=(CHECKPOINT,),
        handler=delete_checkpoint,
        summary="Delete a checkpoint; forks of it live on",
        access=Access.ORGANISATION,
        answers={204: None},
        errors=("not_found",),
    ),
    Endpoint(
        method="POST",
        paths=(f"{CHECKPOINT}/restore",),
        handler=restore_checkpoint,
        summary="Bring a sandbox back to one of its checkpoints, in place",
        access=Access.ORGANISATION,
        answers={200: RestoringBody},
        errors=(
            *_ERRORS,
            "not_running",
            "checkpoint_mismatch",
            "checkpoint_failed",
            "checkpoint_not_ready",
            "no_capacity",
            "agent_unresponsive",
        ),
        changes=True,
        fixes=verb_ids,
        resumes=True,
    ),
)
