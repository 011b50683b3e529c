"""Expire: stop a sandbox whose idle time is over.

The row left `running` in the transaction that decided it. The worker has the last word:
it refuses when anything is in flight or happened meanwhile, and closes its gate in the
same step when not. Without proof of the stop the row goes back to `running`: a failed
automatic action kills nothing.
"""

from __future__ import annotations

import secrets
from dataclasses import replace

from sandfleet.controlplane.dependencies import ControlPlane, sandbox_topic
from sandfleet.controlplane.operations.backoff import Backoff
from sandfleet.controlplane.operations.creation_queue import CAPACITY_TOPIC
from sandfleet.controlplane.operations.owner import owner
from sandfleet.controlplane.operations.records import ended, log_row, new_operation
from sandfleet.controlplane.operations.step import Definition, Run
from sandfleet.lifecycle.sandbox import SandboxEvent, advance
from sandfleet.model.errors import SandfleetError, StaleVersion, StoreUnavailable, Unavailable
from sandfleet.model.ids import operation_id
from sandfleet.model.operation import Operation, OperationKind, OperationState
from sandfleet.model.sandbox import Sandbox, SandboxState, StopReason
from sandfleet.wire.worker_messages import StopVm

ACTOR = "expiry"
DEADLINE_S = 60.0
_WRITE_ATTEMPTS = 20


async def begin_expire(plane: ControlPlane, sandbox: Sandbox, *, idle_s: float, term: int) -> Operation:
    """Move the row out of `running` and write the operation; StaleVersion, StaleTerm."""
    now = plane.clock.now()
    operation = new_operation(
        plane,
        sandbox,
        operation_id=operation_id(secrets.token_bytes(16)),
        kind=OperationKind.EXPIRE,
        step="stop",
        deadline_s=DEADLINE_S,
        arguments={"timeout_s": sandbox.timeout_s},
    )
    after = replace(advance(sandbox, SandboxEvent.IDLE_EXPIRED, at=now), deadline_at=operation.deadline_at)
    log = log_row(
        sandbox,
        after,
        event=SandboxEvent.IDLE_EXPIRED,
        actor=ACTOR,
        reason=f"idle for {idle_s:.0f} s, its timeout is {sandbox.timeout_s} s",
        operation=operation,
    )
    await plane.stores.sandboxes.start_operation(after, operation, log, term=term)
    return operation


async def _stop(run: Run, operation: Operation) -> Operation:
    backoff = Backoff(run.plane.clock, most_s=5.0)
    while True:
        sandbox = await run.fresh_row(operation)
        if sandbox.state is not SandboxState.HIBERNATING or sandbox.worker_id is None:
            return await _cancelled(run, operation)
        order = StopVm(epoch=sandbox.epoch, idle_since_s=float(operation.arguments["timeout_s"]))
        try:
            worker = await owner(run, sandbox.worker_id)
            await run.plane.worker_client.stop_vm(worker.id, worker.http_url, sandbox.id, order)
        except StoreUnavailable:
            raise
        except Unavailable:
            await backoff.wait()
            continue
        except SandfleetError as error:
            return await _refused(run, operation, error)
        return await _expired(run, operation)


async def _expired(run: Run, operation: Operation) -> Operation:
    for _ in range(_WRITE_ATTEMPTS):
        before = await run.fresh_row(operation)
        if before.state is not SandboxState.HIBERNATING:
            return await _cancelled(run, operation)
        now = run.plane.clock.now()
        after = replace(
            advance(before, SandboxEvent.EXPIRED, at=now),
            worker_id=None,
            stopped_at=now,
            deadline_at=None,
            stop_reason=StopReason.EXPIRED,
        )
        log = log_row(
            before,
            after,
            event=SandboxEvent.EXPIRED,
            actor=ACTOR,
            reason="the worker stopped it while it was idle",
            operation=operation,
        )
        done = ended(operation, OperationState.SUCCEEDED, at=now)
        try:
            await run.plane.stores.operations.finish(done, sandbox=after, transition=log, releases=True)
        except StaleVersion:
            continue
        await run.plane.routes.forget(before.id)
        await run.plane.wake_ups.publish(CAPACITY_TOPIC)
        return done
    raise StaleVersion(f"sandbox {operation.sandbox_id} is changing too fast")


async def _refused(run: Run, operation: Operation, error: SandfleetError) -> Operation:
    """Put the row back to `running`, its idle time begun anew."""
    for _ in range(_WRITE_ATTEMPTS):
        before = await run.fresh_row(operation)
        if before.state is not SandboxState.HIBERNATING:
            return await _cancelled(run, operation)
        now = run.plane.clock.now()
        after = replace(advance(before, SandboxEvent.EXPIRY_REFUSED, at=now), active_at=now, deadline_at=None)
        log = log_row(
            before,
            after,
            event=SandboxEvent.EXPIRY_REFUSED,
            actor=ACTOR,
            reason=error.message,
            operation=operation,
        )
        done = ended(operation, OperationState.FAILED, at=now, error=error)
        try:
            await run.plane.stores.operations.finish(done, sandbox=after, transition=log)
        except StaleVersion:
            continue
        await run.plane.wake_ups.publish(sandbox_topic(before.id))
        return done
    raise StaleVersion(f"sandbox {operation.sandbox_id} is changing too fast")


async def _cancelled(run: Run, operation: Operation) -> Operation:
    """End the expiry of a sandbox that was killed meanwhile: the kill's operation does the rest."""
    done = ended(operation, OperationState.CANCELLED, at=run.plane.clock.now())
    return await run.plane.stores.operations.finish(done)


EXPIRE = Definition(steps={"stop": _stop}, give_up=_refused)
