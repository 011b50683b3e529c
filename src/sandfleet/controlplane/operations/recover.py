"""Recover: a sandbox whose VM is lost comes back from its newest saved state, or ends in `error`.

Whoever has proof of the loss decides with `decide` and writes `loss` down in one transaction. The
operation then clears the old place and comes to a worker as a wake does (see `arrival`).

What if it dies
    after the row        another replica takes over at `clear`: stopping what is not there is no harm
    after the clearing   the place is given back in the transaction that names the next step
    from `place` on      as a wake
    killed meanwhile     nothing here can be written any more; the kill's operation removes what is left
    no place             `hibernated`: whoever calls next wakes it
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.operations.arrival import WRITE_ATTEMPTS, Arrival, cancelled
from sandfleet.controlplane.operations.destroy import destroy_operation
from sandfleet.controlplane.operations.records import log_row, new_operation
from sandfleet.controlplane.operations.step import Definition, Run
from sandfleet.controlplane.operations.wake import fail, is_undone
from sandfleet.lifecycle.sandbox import SandboxEvent, advance
from sandfleet.model.errors import StaleVersion
from sandfleet.model.ids import WorkerId, operation_id
from sandfleet.model.operation import Operation, OperationKind
from sandfleet.model.resources import Resources
from sandfleet.model.sandbox import Sandbox, SandboxState, StopReason
from sandfleet.model.snapshot import Snapshot
from sandfleet.model.transition import Transition
from sandfleet.planning.repair import NoRecovery, Recovery, recovery

ACTOR = "recover"
_STATE = SandboxState.WAKING
_LOG_READ = 500


@dataclass(frozen=True, slots=True)
class Loss:
    """What is written of a sandbox that was lost: the row, the operation that follows, the log row."""

    sandbox: Sandbox
    operation: Operation
    log: Transition


async def decide(
    plane: ControlPlane, sandbox: Sandbox, *, why: str, answering: WorkerId | None
) -> Recovery | NoRecovery:
    """Read what there is of the sandbox and decide what becomes of it."""
    saved = await plane.stores.snapshots.complete_of(sandbox.id)
    log = await plane.stores.sandboxes.transitions(sandbox.organisation_id, sandbox.id, limit=_LOG_READ)
    return recovery(
        why,
        saved,
        recovered_at=[row.at for row in log if row.event == SandboxEvent.RECOVER],
        answering=answering,
        now=plane.clock.now(),
    )


def loss(plane: ControlPlane, before: Sandbox, decision: Recovery | NoRecovery, *, actor: str) -> Loss:
    """Return what the decision means for the sandbox."""
    if isinstance(decision, NoRecovery):
        return _ended(plane, before, decision, actor=actor)
    new_id = operation_id(secrets.token_bytes(16))
    operation = new_operation(
        plane,
        before,
        operation_id=new_id,
        kind=OperationKind.RECOVER,
        step="clear",
        deadline_s=plane.settings.create_deadline_s,
        arguments={"snapshot_id": decision.snapshot.id},
    )
    after = replace(
        advance(before, SandboxEvent.RECOVER, at=plane.clock.now()),
        epoch=before.epoch + 1,
        snapshot_id=decision.snapshot.id,
        resources=room_for(decision.snapshot, before),
        deadline_at=operation.deadline_at,
    )
    log = log_row(
        before,
        after,
        event=SandboxEvent.RECOVER,
        actor=actor,
        reason=decision.reason,
        operation=operation,
        detail={
            "snapshot_id": decision.snapshot.id,
            "saved_at": decision.snapshot.created_at.isoformat(timespec="milliseconds"),
        },
    )
    return Loss(after, operation, log)


def room_for(snapshot: Snapshot, before: Sandbox) -> Resources:
    """Return the sandbox's size, but no less than what the saved guest may have in use."""
    saved_mib = int(snapshot.manifest.get("memory_mib", 0))
    return replace(before.resources, memory_mib=max(before.resources.memory_mib, saved_mib))


def _ended(plane: ControlPlane, before: Sandbox, decision: NoRecovery, *, actor: str) -> Loss:
    now = plane.clock.now()
    after = replace(
        advance(before, SandboxEvent.LOST, at=now),
        epoch=before.epoch + 1,
        stopped_at=now,
        deadline_at=None,
        stop_reason=StopReason.CRASH,
        error_message=decision.reason,
    )
    new_id = operation_id(secrets.token_bytes(16))
    destroy = destroy_operation(plane, after, new_id=new_id, reason="lost")
    log = log_row(
        before, after, event=SandboxEvent.LOST, actor=actor, reason=decision.reason, operation=destroy
    )
    return Loss(after, destroy, log)


async def _clear(run: Run, operation: Operation) -> Operation:
    """Give the old place back when its worker has proven that nothing of the VM is left there."""
    if not await is_undone(run, operation):
        return await cancelled(run, operation)
    again = replace(operation, step="place")
    for _ in range(WRITE_ATTEMPTS):
        before = await run.fresh_row(operation)
        if before.state is not _STATE:
            return await cancelled(run, operation)
        now = run.plane.clock.now()
        after = replace(before, worker_id=None, version=before.version + 1, changed_at=now)
        reason = "the worker holds nothing of it any more"
        log = log_row(before, after, event="cleared", actor=ACTOR, reason=reason, operation=operation)
        try:
            await run.plane.stores.placements.give_back(again, after, log)
        except StaleVersion:
            continue
        run.sandbox = after
        return again
    raise StaleVersion(f"sandbox {operation.sandbox_id} is changing too fast")


_ARRIVAL = Arrival(actor=ACTOR, state=_STATE, event=SandboxEvent.WOKEN, fail=fail).definition()
RECOVER = Definition(steps={"clear": _clear, **_ARRIVAL.steps}, give_up=fail)
