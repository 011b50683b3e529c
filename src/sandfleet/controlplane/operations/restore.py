"""Restore: bring a sandbox back to one of its checkpoints, in place.

The order carries the next epoch: the worker starts the new VM beside the old one and ends the
old one when the new one has answered. The row takes the epoch over when that is known.

What if it dies
    after the row        another replica takes over at `start`: the same epoch is one start
    after the start      the same answer again; the row is written
    a refusal            the old VM was kept: `running` as before, with the reason
    no answer            repeated until there is one: which of the two VMs lives is not known
    killed meanwhile     the kill's epoch is above that of the order; nothing can be started any more
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.operations.arrival import announce, cancelled
from sandfleet.controlplane.operations.backoff import Backoff
from sandfleet.controlplane.operations.ending import Ending, end
from sandfleet.controlplane.operations.owner import owner
from sandfleet.controlplane.operations.records import log_row, new_operation
from sandfleet.controlplane.operations.snapshots import snapshot_of, source_of
from sandfleet.controlplane.operations.step import Definition, Run
from sandfleet.lifecycle.sandbox import SandboxEvent, advance
from sandfleet.model.checkpoint import Checkpoint
from sandfleet.model.errors import (
    BlobsUnavailable,
    NoCapacity,
    SandfleetError,
    StoreUnavailable,
    Unavailable,
)
from sandfleet.model.ids import OperationId
from sandfleet.model.operation import Operation, OperationKind
from sandfleet.model.resources import Resources
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.planning.resizing import shortage
from sandfleet.wire.worker_messages import StartVm

ACTOR = "restore"
_STATE = SandboxState.RESTORING


async def begin_restore(
    plane: ControlPlane, sandbox: Sandbox, checkpoint: Checkpoint, *, ids: Mapping[str, str], actor: str
) -> Operation:
    """Write `restoring` with its operation and room for its size; StaleVersion, NoCapacity, QuotaExceeded."""
    now = plane.clock.now()
    size = checkpoint.resources
    operation = new_operation(
        plane,
        sandbox,
        operation_id=OperationId(ids["operation_id"]),
        kind=OperationKind.RESTORE,
        step="start",
        deadline_s=plane.settings.create_deadline_s,
        arguments={
            "snapshot_id": checkpoint.snapshot_id,
            "checkpoint_id": checkpoint.id,
            "size": [size.memory_mib, size.cpu_count, size.disk_mib],
        },
    )
    after = replace(
        advance(sandbox, SandboxEvent.RESTORE_REQUESTED, at=now), deadline_at=operation.deadline_at
    )
    log = log_row(
        sandbox,
        after,
        event=SandboxEvent.RESTORE_REQUESTED,
        actor=actor,
        reason="requested",
        operation=operation,
        detail={"checkpoint_id": checkpoint.id},
    )
    policy = plane.settings.placement_policy
    await plane.stores.sizes.begin(
        after,
        operation,
        log,
        memory_mib=size.memory_mib,
        refuse=lambda worker, extra_mib: shortage(worker, extra_mib, policy),
    )
    await plane.routes.forget(sandbox.id)
    return operation


async def _start(run: Run, operation: Operation) -> Operation:
    """Repeat the order until the worker has said how it stands."""
    backoff = Backoff(run.plane.clock, most_s=5.0)
    while True:
        sandbox = await run.fresh_row(operation)
        if sandbox.state is not _STATE or sandbox.worker_id is None:
            return await cancelled(run, operation)
        try:
            url = await _start_vm(run, operation, sandbox)
        except StoreUnavailable:
            raise
        except (NoCapacity, BlobsUnavailable) as error:
            return await _kept(run, operation, error)
        except Unavailable:
            await backoff.wait()
        except SandfleetError as error:
            return await _kept(run, operation, error)
        else:
            return await _restored(run, operation, url=url)


async def _start_vm(run: Run, operation: Operation, sandbox: Sandbox) -> str:
    assert sandbox.worker_id is not None
    worker = await owner(run, sandbox.worker_id)
    size = Resources(*operation.arguments["size"])
    order = StartVm(
        epoch=sandbox.epoch + 1,
        template=sandbox.template,
        memory_mib=size.memory_mib,
        cpu_count=size.cpu_count,
        disk_mib=size.disk_mib,
        network_enabled=sandbox.network_enabled,
        envs=dict(sandbox.envs),
        snapshot=source_of(await snapshot_of(run, operation), sandbox),
        cpu_percent=sandbox.cpu_percent,
    )
    await run.plane.worker_client.start_vm(worker.id, worker.http_url, sandbox.id, order)
    return worker.http_url


async def _restored(run: Run, operation: Operation, *, url: str) -> Operation:
    def ending(before: Sandbox, now: datetime) -> Ending:
        after = replace(
            advance(before, SandboxEvent.RESTORED, at=now),
            epoch=before.epoch + 1,
            resources=Resources(*operation.arguments["size"]),
            active_at=now,
            deadline_at=None,
        )
        return Ending(
            sandbox=after,
            event=SandboxEvent.RESTORED,
            reason="the guest of the checkpoint answered",
            reserved_mib=after.resources.memory_mib,
        )

    done = await end(run, operation, state=_STATE, actor=ACTOR, ending=ending)
    if done is None:
        return await cancelled(run, operation)
    await announce(run, await run.row(operation), url=url)
    return done


async def _kept(run: Run, operation: Operation, error: SandfleetError) -> Operation:
    """Put the row back to `running`: the worker kept the old VM."""

    def ending(before: Sandbox, now: datetime) -> Ending:
        event = SandboxEvent.RESTORE_FAILED
        after = replace(advance(before, event, at=now), active_at=now, deadline_at=None)
        return Ending(
            sandbox=after,
            event=event,
            reason=error.message,
            error=error,
            reserved_mib=after.resources.memory_mib,
        )

    done = await end(run, operation, state=_STATE, actor=ACTOR, ending=ending)
    return done or await cancelled(run, operation)


async def _give_up(run: Run, operation: Operation, error: SandfleetError) -> Operation:
    """Even at its deadline it needs the worker's word; only a kill ends it without."""
    return await _start(run, operation)


RESTORE = Definition(steps={"start": _start}, give_up=_give_up)
