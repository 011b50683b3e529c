"""Wake: a hibernated sandbox comes back to a worker (see `arrival`), from what it was saved to.

The worker that has the saved state on its disk comes first; any other that can load it once
the state is durable. The quotas admit it in the transaction that begins the wake.

What if it fails
    no place in the queue's time    it stays `hibernated`; the caller gets `no_capacity`
    the state cannot be loaded      `error` with the reason; the state is kept as it was
    anything else                   the worker proves that it holds nothing, then `hibernated`
                                    again: a second wake must never meet the first one's VM
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.operations.arrival import Arrival, cancelled
from sandfleet.controlplane.operations.backoff import Backoff
from sandfleet.controlplane.operations.destroy import destroy_operation
from sandfleet.controlplane.operations.ending import Ending, end
from sandfleet.controlplane.operations.records import log_row, new_operation
from sandfleet.controlplane.operations.step import Run
from sandfleet.lifecycle.sandbox import SandboxEvent, advance
from sandfleet.model.errors import SandfleetError, SnapshotUnusable, StoreUnavailable
from sandfleet.model.ids import OperationId, operation_id
from sandfleet.model.operation import Operation, OperationKind
from sandfleet.model.sandbox import Sandbox, SandboxState, StopReason
from sandfleet.model.worker import WorkerState
from sandfleet.wire.worker_messages import StopVm

ACTOR = "wake"
_STATE = SandboxState.WAKING


class _PlacedMeanwhile(Exception):
    """A place was taken after the wake was looked at: it must be given back with proof."""


async def begin_wake(
    plane: ControlPlane, sandbox: Sandbox, *, ids: Mapping[str, str], actor: str, timeout_s: int | None
) -> tuple[Sandbox, Operation]:
    """Write `waking` with its operation; QuotaExceeded, StaleVersion."""
    now = plane.clock.now()
    operation = new_operation(
        plane,
        sandbox,
        operation_id=OperationId(ids["operation_id"]),
        kind=OperationKind.WAKE,
        step="place",
        deadline_s=plane.settings.create_deadline_s,
    )
    after = replace(
        advance(sandbox, SandboxEvent.WAKE_REQUESTED, at=now),
        deadline_at=operation.deadline_at,
        timeout_s=sandbox.timeout_s if timeout_s is None else timeout_s,
    )
    log = log_row(
        sandbox,
        after,
        event=SandboxEvent.WAKE_REQUESTED,
        actor=actor,
        reason="requested",
        operation=operation,
    )
    await plane.stores.sandboxes.start_operation(after, operation, log, admits=True)
    return after, operation


async def fail(run: Run, operation: Operation, error: SandfleetError) -> Operation:
    """End the wake: back to `hibernated`, or `error` when there is nothing to come back from."""
    sandbox = await run.fresh_row(operation)
    if sandbox.state is not _STATE:
        return await cancelled(run, operation)
    if isinstance(error, SnapshotUnusable):
        return await _unusable(run, operation, error)
    is_placed = sandbox.worker_id is not None
    if is_placed and not await is_undone(run, operation):
        return await cancelled(run, operation)

    def ending(before: Sandbox, now: datetime) -> Ending:
        if (before.worker_id is not None) is not is_placed:
            raise _PlacedMeanwhile
        event = SandboxEvent.WAKE_FAILED
        after = replace(advance(before, event, at=now), worker_id=None, deadline_at=None)
        return Ending(sandbox=after, event=event, reason=error.message, error=error, releases=is_placed)

    try:
        done = await end(run, operation, state=_STATE, actor=ACTOR, ending=ending)
    except _PlacedMeanwhile:  # at most once: the queue's attempt was under way when its time was over
        return await fail(run, operation, error)
    return done or await cancelled(run, operation)


async def is_undone(run: Run, operation: Operation) -> bool:
    """Whether its worker has proven that nothing is left; False when the sandbox was killed meanwhile."""
    backoff = Backoff(run.plane.clock)
    while True:
        sandbox = await run.fresh_row(operation)
        if sandbox.state is not _STATE or sandbox.worker_id is None:
            return False
        try:
            worker = await run.plane.stores.workers.get(sandbox.worker_id)
            if worker.state is WorkerState.GONE:
                return True
            order = StopVm(epoch=sandbox.epoch)
            await run.plane.worker_client.stop_vm(worker.id, worker.http_url, sandbox.id, order)
        except StoreUnavailable:
            raise
        except SandfleetError:
            await backoff.wait()
        else:
            return True


async def _unusable(run: Run, operation: Operation, error: SnapshotUnusable) -> Operation:
    """End the sandbox in `error`. Its row goes on naming the snapshot, so nobody throws that away."""

    def ending(before: Sandbox, now: datetime) -> Ending:
        after = replace(
            advance(before, SandboxEvent.LOST, at=now),
            epoch=before.epoch + 1,
            stopped_at=now,
            deadline_at=None,
            stop_reason=StopReason.CRASH,
            error_message=error.message,
        )
        destroy = None
        if before.worker_id is not None:
            new_id = operation_id(secrets.token_bytes(16))
            destroy = destroy_operation(run.plane, after, new_id=new_id, reason="wake failed")
        return Ending(
            sandbox=after,
            event=SandboxEvent.LOST,
            reason=error.message,
            error=error,
            follow_up=destroy,
        )

    done = await end(run, operation, state=_STATE, actor=ACTOR, ending=ending)
    return done or await cancelled(run, operation)


WAKE = Arrival(actor=ACTOR, state=_STATE, event=SandboxEvent.WOKEN, fail=fail).definition()
