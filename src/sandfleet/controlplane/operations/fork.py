"""Live fork: capture a running sandbox once, and start others from the capture.

The rows of all forks are written in the transaction that begins it, so the quotas admit
all or none (with `partial` as many as fit) before anything is captured. Each fork is a
create of its own that waits for the capture; this operation takes the capture and answers
for "all or none": when one fails, it ends the others.

What if it dies
    after the rows       another replica takes over at `capture`: the same snapshot id is one capture
    after the capture    the same answer again; the forks find the capture and start
    while they start     another replica waits on at `wait`; each create is taken over by itself
    the source ends      before the capture: the forks fail; after it they live on
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from sandfleet.controlplane.dependencies import ControlPlane, CreateOrder, sandbox_topic
from sandfleet.controlplane.operations.checkpoint import captured
from sandfleet.controlplane.operations.create import new_sandbox
from sandfleet.controlplane.operations.creation_queue import CAPACITY_TOPIC
from sandfleet.controlplane.operations.kill import kill
from sandfleet.controlplane.operations.records import ended, log_row, new_operation
from sandfleet.controlplane.operations.snapshots import (
    complete,
    failed_snapshot,
    new_snapshot,
    snapshot_of,
)
from sandfleet.controlplane.operations.step import Definition, Run
from sandfleet.controlplane.operations.upload import DURABLE, ask
from sandfleet.model.errors import NotFound, SandfleetError, StoreUnavailable
from sandfleet.model.ids import OperationId, SandboxId, SnapshotId
from sandfleet.model.operation import Operation, OperationKind, OperationState
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.snapshot import SnapshotState

ACTOR = "fork"
DEADLINE_S = 300.0


async def begin_fork(
    plane: ControlPlane,
    sandbox: Sandbox,
    orders: Sequence[CreateOrder],
    *,
    ids: Mapping[str, str],
    is_partial: bool,
) -> tuple[Operation, list[tuple[Sandbox, Operation]]]:
    """Write the capture, the operation and the forks; QuotaExceeded, StaleVersion."""
    now = plane.clock.now()
    snapshot = new_snapshot(plane, sandbox, SnapshotId(ids["snapshot_id"]))
    operation = new_operation(
        plane,
        sandbox,
        operation_id=OperationId(ids["operation_id"]),
        kind=OperationKind.FORK,
        step="capture",
        deadline_s=DEADLINE_S,
        arguments={
            "snapshot_id": snapshot.id,
            "forks": [[order.sandbox_id, order.operation_id] for order in orders],
            "is_partial": is_partial,
        },
    )
    after = replace(sandbox, version=sandbox.version + 1, changed_at=now, active_at=now)
    log = log_row(
        sandbox,
        after,
        event="fork_requested",
        actor=orders[0].actor,
        reason="requested",
        operation=operation,
        detail={"count": len(orders)},
    )
    created = [new_sandbox(plane, replace(order, snapshot_id=snapshot.id)) for order in orders]
    admitted = await plane.stores.sandboxes.start_fork(
        after, operation, log, snapshot=snapshot, created=created, is_partial=is_partial
    )
    return operation, [(row, create) for row, create, _ in created[:admitted]]


async def _capture(run: Run, operation: Operation) -> Operation:
    try:
        saved = await captured(run, operation)
    except StoreUnavailable:
        raise
    except SandfleetError as error:
        return await fail(run, operation, error)
    await run.plane.stores.snapshots.save(complete(await snapshot_of(run, operation), saved))
    await run.plane.wake_ups.publish(sandbox_topic(operation.sandbox_id))
    progress = {**operation.progress, "pause_ms": saved.pause_ms}
    return await run.plane.stores.operations.save(replace(operation, step="wait", progress=progress))


async def _wait(run: Run, operation: Operation) -> Operation:
    """Wait until each fork runs or has failed; with one failure, end the others."""
    for fork_id, create_id in operation.arguments["forks"]:
        row = await _arrived(run, operation, SandboxId(fork_id))
        is_missing = row is not None and row.state is SandboxState.FAILED
        if is_missing and not operation.arguments["is_partial"]:
            return await _failing(run, operation, await _why(run, OperationId(create_id)))
    done = ended(operation, OperationState.SUCCEEDED, at=run.plane.clock.now())
    await run.plane.stores.operations.finish(done)
    await run.plane.wake_ups.publish(sandbox_topic(operation.sandbox_id))
    return done


async def _arrived(run: Run, operation: Operation, fork_id: SandboxId) -> Sandbox | None:
    """Return the fork's row once it is not `creating` any more; None if it was not admitted."""
    hints = run.plane.wake_ups.subscribe(sandbox_topic(fork_id))
    while True:
        try:
            row = await run.plane.stores.sandboxes.get_any(fork_id)
        except NotFound:
            return None
        if row.state is not SandboxState.CREATING:
            return row
        if row.worker_id is None:
            await _spread(run, operation)
        await anext(hints)


async def _spread(run: Run, operation: Operation) -> None:
    """Make the capture durable when its own worker has no room for all: then others can load it."""
    if run.plane.settings.blob_store_url is None:
        return
    snapshot = await snapshot_of(run, operation)
    if snapshot.state is SnapshotState.LOCAL and (await ask(run, snapshot))[0].state == DURABLE:
        await run.plane.stores.snapshots.save(replace(snapshot, state=SnapshotState.DURABLE))
        await run.plane.wake_ups.publish(CAPACITY_TOPIC)


async def _why(run: Run, create_id: OperationId) -> SandfleetError:
    create = await run.plane.stores.operations.get(create_id)
    message = create.error_message or "a fork could not be created"
    return SandfleetError(message, code=create.error_code or SandfleetError.code)


async def _failing(run: Run, operation: Operation, error: SandfleetError) -> Operation:
    """Write down that it fails, before anything is ended: half an undoing must not look like success."""
    progress = {**operation.progress, "failure": [error.code, error.message]}
    return await run.plane.stores.operations.save(replace(operation, step="undo", progress=progress))


async def _undo(run: Run, operation: Operation) -> Operation:
    """End all forks: none of them is handed out."""
    code, message = operation.progress["failure"]
    snapshot = None
    if "pause_ms" not in operation.progress:
        snapshot = await failed_snapshot(run, operation, message)
    for fork_id, _ in operation.arguments["forks"]:
        with suppress(NotFound):
            row = await run.plane.stores.sandboxes.get_any(SandboxId(fork_id))
            await kill(run.plane, row, actor=ACTOR, begin=run.begin)
    error = SandfleetError(message, code=code)
    done = ended(operation, OperationState.FAILED, at=run.plane.clock.now(), error=error)
    done = await run.plane.stores.operations.finish(done, snapshot=snapshot)
    await run.plane.wake_ups.publish(sandbox_topic(operation.sandbox_id))
    return done


async def fail(run: Run, operation: Operation, error: SandfleetError) -> Operation:
    """End it and all its forks."""
    if operation.step != "undo":
        operation = await _failing(run, operation, error)
    return await _undo(run, operation)


FORK = Definition(steps={"capture": _capture, "wait": _wait, "undo": _undo}, give_up=fail)
