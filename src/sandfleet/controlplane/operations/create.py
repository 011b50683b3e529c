"""Create: a row, and its arrival on a worker (see `arrival`), from a template or from a checkpoint.

A create that finds no place in the queue's time ends `failed` with the code `no_capacity`:
the row stays, as the record of what was asked and why it was not given.
"""

from __future__ import annotations

import secrets
from dataclasses import replace

from sandfleet.controlplane.dependencies import ControlPlane, CreateOrder
from sandfleet.controlplane.operations.arrival import WRITE_ATTEMPTS, Arrival, cancelled
from sandfleet.controlplane.operations.destroy import destroy_operation
from sandfleet.controlplane.operations.records import ended, log_row, new_operation
from sandfleet.controlplane.operations.step import Run
from sandfleet.lifecycle.sandbox import SandboxEvent, advance
from sandfleet.model.errors import SandfleetError, StaleVersion
from sandfleet.model.ids import OperationId, SandboxId, operation_id
from sandfleet.model.operation import Operation, OperationKind, OperationState
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.transition import Transition

ACTOR = "create"


async def begin_create(plane: ControlPlane, order: CreateOrder) -> tuple[Sandbox, Operation | None]:
    """Write the row with its operation, or find what an earlier attempt wrote; None: others run it."""
    sandbox, operation, log = new_sandbox(plane, order)
    if await plane.stores.sandboxes.create(sandbox, operation, log):
        return sandbox, operation
    return await begun_create(plane, order.sandbox_id, order.operation_id)


async def begun_create(
    plane: ControlPlane, sandbox_id: SandboxId, create_id: OperationId
) -> tuple[Sandbox, Operation | None]:
    """Return what an earlier attempt wrote, or raise NotFound; None: others run it."""
    stored = await plane.stores.operations.get(create_id)
    is_ours = stored.lease is not None and stored.lease.holder == plane.replica_id
    return await plane.stores.sandboxes.get_any(sandbox_id), stored if is_ours else None


def new_sandbox(plane: ControlPlane, order: CreateOrder) -> tuple[Sandbox, Operation, Transition]:
    """Return the rows of a sandbox that was just asked for."""
    now = plane.clock.now()
    settings = plane.settings
    sandbox = Sandbox(
        id=order.sandbox_id,
        organisation_id=order.organisation_id,
        state=SandboxState.CREATING,
        version=1,
        epoch=0,
        worker_id=None,
        template=order.template,
        resources=order.resources,
        region=order.region,
        created_at=now,
        changed_at=now,
        timeout_s=order.timeout_s,
        port=order.port,
        network_enabled=order.network_enabled,
        envs=order.envs,
        metadata=order.metadata,
        alias=order.alias,
        active_at=now,
        preview_digest=order.preview_digest,
        snapshot_id=order.snapshot_id,
        from_checkpoint_id=order.from_checkpoint_id,
        template_version=order.template_version,
        cpu_percent=order.cpu_percent,
    )
    operation = new_operation(
        plane,
        sandbox,
        operation_id=order.operation_id,
        kind=OperationKind.CREATE,
        step="place",
        deadline_s=settings.create_deadline_s,
    )
    operation = replace(operation, created_at=order.requested_at or operation.created_at)
    sandbox = replace(sandbox, deadline_at=operation.deadline_at)
    log = log_row(
        sandbox, sandbox, event="created", actor=order.actor, reason="requested", operation=operation
    )
    return sandbox, operation, replace(log, from_state=None)


async def fail(run: Run, operation: Operation, error: SandfleetError) -> Operation:
    """End the create: the row `failed` with the reason, and what may have started destroyed."""
    for _ in range(WRITE_ATTEMPTS):
        before = await run.fresh_row(operation)
        if before.state is not SandboxState.CREATING:
            return await cancelled(run, operation)
        now = run.plane.clock.now()
        # The higher epoch makes the worker refuse a start that is still on its way.
        after = replace(
            advance(before, SandboxEvent.CREATE_FAILED, at=now),
            epoch=before.epoch + 1,
            stopped_at=now,
            deadline_at=None,
            error_message=error.message,
        )
        log = log_row(
            before,
            after,
            event=SandboxEvent.CREATE_FAILED,
            actor=ACTOR,
            reason=error.message,
            operation=operation,
        )
        destroy = None
        if before.worker_id is not None:
            new_id = operation_id(secrets.token_bytes(16))
            destroy = destroy_operation(run.plane, after, new_id=new_id, reason="create failed")
        done = ended(operation, OperationState.FAILED, at=now, error=error)
        try:
            await run.plane.stores.operations.finish(done, sandbox=after, transition=log, follow_up=destroy)
        except StaleVersion:
            continue
        if destroy is not None:
            run.begin(destroy)
        return done
    raise StaleVersion(f"sandbox {operation.sandbox_id} is changing too fast")


CREATE = Arrival(actor=ACTOR, state=SandboxState.CREATING, event=SandboxEvent.BOOTED, fail=fail).definition()
