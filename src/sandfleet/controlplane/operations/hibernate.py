"""Hibernate: save the VM on its worker, then give its place back; an upload makes the state durable.

The row left `running` in the transaction that decided it. The worker closes its gate,
saves, and ends the VM only when the saved state is complete; it refuses when something is
in flight and the order came from the idle timer.

What if it dies
    after the row       another replica takes over at `save`: the same snapshot id is one save
    while it saves      the worker goes on; the repeated order joins it or answers what it did
    after the save      the same answer again; the row is written
    a refusal           the VM runs on, and the row goes back to `running` with the reason
    no answer           nothing is known: the order is repeated until there is an answer, because
                        a row `running` without a VM would lose what was saved
    the host is gone    by somebody's word: the row goes back to `running`, for reconcile to recover it
    killed meanwhile    nothing here can be written any more; the kill removes the VM, and the
                        snapshot that nobody names is collected
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.operations.backoff import Backoff
from sandfleet.controlplane.operations.ending import Ending, end
from sandfleet.controlplane.operations.owner import owner
from sandfleet.controlplane.operations.records import ended, log_row, new_operation
from sandfleet.controlplane.operations.recover import decide, loss
from sandfleet.controlplane.operations.snapshots import (
    complete,
    failed_snapshot,
    new_snapshot,
    snapshot_of,
)
from sandfleet.controlplane.operations.step import Definition, Run
from sandfleet.controlplane.operations.upload import upload_operation
from sandfleet.lifecycle.sandbox import SandboxEvent, advance
from sandfleet.model.errors import NoCapacity, NotFound, SandfleetError, StoreUnavailable, Unavailable
from sandfleet.model.ids import OperationId, SnapshotId, operation_id, snapshot_id
from sandfleet.model.operation import Operation, OperationKind, OperationState
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.wire.worker_messages import SavedVm, SaveVm

ACTOR = "hibernate"
_STATE = SandboxState.HIBERNATING


def hibernation_ids() -> Mapping[str, str]:
    """Return fresh ids for one hibernation."""
    return {
        "snapshot_id": snapshot_id(secrets.token_bytes(16)),
        "operation_id": operation_id(secrets.token_bytes(16)),
    }


async def begin_hibernate(  # noqa: PLR0913 -- a save, and who asks for it, why and in which term
    plane: ControlPlane,
    sandbox: Sandbox,
    *,
    ids: Mapping[str, str],
    actor: str,
    idle_s: float | None = None,
    reason: str = "requested",
    term: int | None = None,
) -> Operation:
    """Move the row out of `running` and write the operation; StaleVersion, StaleTerm.

    `idle_s`: the idle timer asks, and the worker may refuse because something is in flight.
    """
    now = plane.clock.now()
    snapshot = new_snapshot(plane, sandbox, SnapshotId(ids["snapshot_id"]))
    operation = new_operation(
        plane,
        sandbox,
        operation_id=OperationId(ids["operation_id"]),
        kind=OperationKind.HIBERNATE,
        step="save",
        deadline_s=plane.settings.save_deadline_s,
        arguments={
            "snapshot_id": snapshot.id,
            "idle_since_s": None if idle_s is None else float(sandbox.timeout_s),
        },
    )
    event = SandboxEvent.HIBERNATE_REQUESTED
    if idle_s is not None:
        event = SandboxEvent.IDLE_EXPIRED
        reason = f"idle for {idle_s:.0f} s, its timeout is {sandbox.timeout_s} s"
    after = replace(advance(sandbox, event, at=now), deadline_at=operation.deadline_at)
    log = log_row(sandbox, after, event=event, actor=actor, reason=reason, operation=operation)
    await plane.stores.sandboxes.start_operation(after, operation, log, term=term, snapshot=snapshot)
    await plane.routes.forget(sandbox.id)
    return operation


async def _save(run: Run, operation: Operation) -> Operation:
    """Repeat the order until the worker has said how it stands."""
    backoff = Backoff(run.plane.clock, most_s=5.0)
    while True:
        sandbox = await run.fresh_row(operation)
        if sandbox.state is not _STATE or sandbox.worker_id is None:
            return await _cancelled(run, operation)
        try:
            saved = await _save_vm(run, operation, sandbox)
        except StoreUnavailable:
            raise
        except NotFound as error:
            return await _lost(run, operation, error)
        except NoCapacity as error:
            return await _refused(run, operation, error)
        except Unavailable:
            await backoff.wait()
        except SandfleetError as error:
            return await _refused(run, operation, error)
        else:
            return await _saved(run, operation, saved)


async def _save_vm(run: Run, operation: Operation, sandbox: Sandbox) -> SavedVm:
    assert sandbox.worker_id is not None
    worker = await owner(run, sandbox.worker_id)
    order = SaveVm(
        epoch=sandbox.epoch,
        snapshot_id=operation.arguments["snapshot_id"],
        idle_since_s=operation.arguments["idle_since_s"],
    )
    return await run.plane.worker_client.save_vm(worker.id, worker.http_url, sandbox.id, order)


async def _saved(run: Run, operation: Operation, saved: SavedVm) -> Operation:
    snapshot = complete(await snapshot_of(run, operation), saved)

    def ending(before: Sandbox, now: datetime) -> Ending:
        after = replace(
            advance(before, SandboxEvent.SAVED, at=now),
            worker_id=None,
            snapshot_id=snapshot.id,
            deadline_at=None,
        )
        return Ending(
            sandbox=after,
            event=SandboxEvent.SAVED,
            reason="the worker saved it and ended its VM",
            snapshot=snapshot,
            follow_up=upload_operation(run.plane, after, snapshot),
            releases=True,
            detail={"size_bytes": saved.size_bytes, "pause_ms": saved.pause_ms},
        )

    done = await end(run, operation, state=_STATE, actor=ACTOR, ending=ending)
    return done or await _cancelled(run, operation)


async def _refused(run: Run, operation: Operation, error: SandfleetError) -> Operation:
    """Put the row back to `running`, its idle time begun anew: the VM was never ended."""
    snapshot = await failed_snapshot(run, operation, error.message)

    def ending(before: Sandbox, now: datetime) -> Ending:
        event = SandboxEvent.HIBERNATE_FAILED
        after = replace(advance(before, event, at=now), active_at=now, deadline_at=None)
        return Ending(sandbox=after, event=event, reason=error.message, error=error, snapshot=snapshot)

    done = await end(run, operation, state=_STATE, actor=ACTOR, ending=ending)
    return done or await _cancelled(run, operation)


async def _lost(run: Run, operation: Operation, error: NotFound) -> Operation:
    """Recover it or end it in `error`: its worker says that it has neither the VM nor the saved state."""
    why = "its worker has neither its VM nor a saved state of it"
    snapshot = await failed_snapshot(run, operation, why)
    sandbox = await run.row(operation)
    decision = await decide(run.plane, sandbox, why=why, answering=sandbox.worker_id)

    def ending(before: Sandbox, now: datetime) -> Ending:
        lost = loss(run.plane, before, decision, actor=ACTOR)
        return Ending(
            sandbox=lost.sandbox,
            event=lost.log.event,
            reason=decision.reason,
            error=error,
            snapshot=snapshot,
            follow_up=lost.operation,
            detail=dict(lost.log.detail),
        )

    done = await end(run, operation, state=_STATE, actor=ACTOR, ending=ending)
    return done or await _cancelled(run, operation)


async def _cancelled(run: Run, operation: Operation) -> Operation:
    """End the hibernation of a sandbox that was killed: the kill's operation does the rest."""
    snapshot = await failed_snapshot(run, operation, "the sandbox was stopped")
    done = ended(operation, OperationState.CANCELLED, at=run.plane.clock.now())
    return await run.plane.stores.operations.finish(done, snapshot=snapshot)


async def _give_up(run: Run, operation: Operation, error: SandfleetError) -> Operation:
    """Even at its deadline it needs the worker's word; only a kill ends it without."""
    return await _save(run, operation)


HIBERNATE = Definition(steps={"save": _save}, give_up=_give_up)
