"""Resize: change memory and CPU of a running sandbox, done when its guest has them.

The sandbox stays `running`. Growth is reserved before the worker is asked; what a
shrinking gives back is released when the worker has said that the guest is smaller.

What if it dies
    after the rows       another replica takes over at `resize`: the same size twice is one change
    after the change     the same answer again; row and reservation are written
    refused              an attempt before, whose answer was lost, may have done it: the worker is
                         asked what the guest has, and that is what is written and reserved
    no answer in time    which size the guest has is not known: the larger one stays reserved
    killed meanwhile     the operation ends; the destroy gives the reservation back
    a copy comes late    the worker refuses it: a later change has a higher sequence, a refusal stays
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sandfleet.controlplane.dependencies import ControlPlane, NewSize, sandbox_topic
from sandfleet.controlplane.operations.backoff import Backoff
from sandfleet.controlplane.operations.creation_queue import CAPACITY_TOPIC
from sandfleet.controlplane.operations.owner import owner
from sandfleet.controlplane.operations.records import ended, log_row, new_operation
from sandfleet.controlplane.operations.step import Definition, Run
from sandfleet.model.errors import (
    Gone,
    NoCapacity,
    NotFound,
    SandfleetError,
    StaleEpoch,
    StaleVersion,
    StoreUnavailable,
    Unavailable,
)
from sandfleet.model.ids import OperationId
from sandfleet.model.operation import Operation, OperationKind, OperationState
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.scaling import Scaling
from sandfleet.planning.resizing import shortage
from sandfleet.wire.worker_messages import ResizedVm, ResizeVm

ACTOR = "resize"
DEADLINE_S = 120.0
WRITE_ATTEMPTS = 20
TAKEN_OVER = "autoscale_disabled"
"""The argument that says whether the change ends the fleet's own changes."""


async def begin_resize(
    plane: ControlPlane,
    sandbox: Sandbox,
    wanted: NewSize,
    *,
    operation_id: str,
    actor: str,
    term: int | None = None,
) -> Operation:
    """Write the operation with what it reserves; StaleVersion, QuotaExceeded, NoCapacity.

    `term`: that of the leader whose effect it is; StaleTerm.
    """
    now = plane.clock.now()
    # The next version, so that of two verbs that read the same row one is told to look again.
    after = replace(sandbox, version=sandbox.version + 1, changed_at=now)
    operation = new_operation(
        plane,
        sandbox,
        operation_id=OperationId(operation_id),
        kind=OperationKind.RESIZE,
        step="resize",
        deadline_s=DEADLINE_S,
        arguments={
            "memory_mib": wanted.memory_mib,
            "cpu_percent": wanted.cpu_percent,
            "sequence": after.version,
            TAKEN_OVER: takes_over(sandbox, wanted),
        },
    )
    log = log_row(
        sandbox,
        after,
        event="resize_requested",
        actor=actor,
        reason=told(sandbox, wanted),
        operation=operation,
    )
    policy = plane.settings.placement_policy
    await plane.stores.sizes.begin(
        after,
        operation,
        log,
        memory_mib=wanted.memory_mib,
        refuse=lambda worker, extra_mib: shortage(worker, extra_mib, policy),
        term=term,
    )
    return operation


def takes_over(sandbox: Sandbox, wanted: NewSize) -> bool:
    """Whether somebody takes a size into his own hands that the fleet has looked after."""
    return sandbox.scaling.is_automatic and not wanted.is_automatic


def told(sandbox: Sandbox, wanted: NewSize) -> str:
    """Return what the log says of the change."""
    change = f"{sandbox.resources.memory_mib} to {wanted.memory_mib} MiB"
    return f"{change}: {wanted.reason}" if wanted.reason else change


def scaling_after(sandbox: Sandbox, operation: Operation) -> Scaling:
    """Return what holds after a change that was made: one by hand ends what the fleet does by itself."""
    if operation.arguments.get(TAKEN_OVER):
        return replace(sandbox.scaling, is_automatic=False)
    return sandbox.scaling


async def _resize(run: Run, operation: Operation) -> Operation:
    try:
        reached = await _reached(run, operation)
    except StoreUnavailable:
        raise
    except SandfleetError as error:
        return await _refused(run, operation, error)
    return await _end(run, operation, memory_mib=reached.memory_mib, error=None)


async def _reached(run: Run, operation: Operation) -> ResizedVm:
    """Ask the worker, again while it does not answer; Gone when the sandbox has left."""
    backoff = Backoff(run.plane.clock, most_s=5.0)
    while True:
        sandbox = await run.fresh_row(operation)
        if sandbox.state is not SandboxState.RUNNING or sandbox.worker_id is None:
            raise Gone("the sandbox stopped running before its size was changed")
        order = ResizeVm(
            epoch=sandbox.epoch,
            sequence=operation.arguments["sequence"],
            memory_mib=operation.arguments["memory_mib"],
            cpu_percent=limit_of(sandbox, operation.arguments),
        )
        try:
            worker = await owner(run, sandbox.worker_id)
            return await run.plane.worker_client.resize_vm(worker.id, worker.http_url, sandbox.id, order)
        except (StoreUnavailable, NoCapacity):
            raise
        except (StaleEpoch, Unavailable):
            await backoff.wait()


def limit_of(sandbox: Sandbox, arguments: Mapping[str, Any]) -> int:
    """Return the CPU limit in percent of one core."""
    asked = arguments.get("cpu_percent")
    return int(asked) if asked is not None else sandbox.resources.cpu_count * 100


async def _refused(run: Run, operation: Operation, error: SandfleetError) -> Operation:
    kept = replace(operation, progress={**operation.progress, "details": dict(error.details)})
    memory_mib = await _memory_now(run, operation)
    if memory_mib is None:
        return await _give_up(run, kept, error)
    return await _end(run, kept, memory_mib=memory_mib, error=error)


async def _memory_now(run: Run, operation: Operation) -> int | None:
    """Return what the guest has by its worker's word; None when that is not to be had."""
    sandbox = await run.fresh_row(operation)
    if sandbox.state is not SandboxState.RUNNING or sandbox.worker_id is None:
        return sandbox.resources.memory_mib
    try:
        worker = await run.plane.stores.workers.get(sandbox.worker_id)
        vm = await run.plane.worker_client.vm(worker.id, worker.http_url, sandbox.id)
    except StoreUnavailable:
        raise
    except NotFound:
        return sandbox.resources.memory_mib
    except SandfleetError:
        return None
    return vm.memory_mib if vm.epoch == sandbox.epoch else None


async def _end(run: Run, operation: Operation, *, memory_mib: int, error: SandfleetError | None) -> Operation:
    """Write the end; the reservation becomes what the guest has."""
    for _ in range(WRITE_ATTEMPTS):
        before = await run.fresh_row(operation)
        now = run.plane.clock.now()
        state = OperationState.FAILED if error else OperationState.SUCCEEDED
        done = ended(operation, state, at=now, error=error)
        if before.state is not SandboxState.RUNNING:
            return await run.plane.stores.operations.finish(done)
        size = replace(before.resources, memory_mib=memory_mib)
        after = replace(before, version=before.version + 1, changed_at=now, resources=size)
        if error is None:
            after = replace(
                after,
                cpu_percent=operation.arguments["cpu_percent"],
                scaling=scaling_after(before, operation),
            )
        log = log_row(
            before,
            after,
            event="resize_failed" if error else "resized",
            actor=ACTOR,
            reason=error.message if error else f"{after.resources.memory_mib} MiB",
            operation=operation,
            detail={"elapsed_ms": int((now - operation.created_at).total_seconds() * 1000)},
        )
        try:
            await run.plane.stores.sizes.finish(
                done, sandbox=after, transition=log, reserved_mib=after.resources.memory_mib
            )
        except StaleVersion:
            continue
        run.sandbox = after
        for topic in (sandbox_topic(before.id), CAPACITY_TOPIC):
            await run.plane.wake_ups.publish(topic)
        return done
    raise StaleVersion(f"sandbox {operation.sandbox_id} is changing too fast")


async def _give_up(run: Run, operation: Operation, error: SandfleetError) -> Operation:
    """End it without knowing what the guest has: the larger size stays reserved."""
    state = OperationState.CANCELLED if error.code == "cancelled" else OperationState.FAILED
    done = ended(operation, state, at=run.plane.clock.now(), error=error)
    return await run.plane.stores.operations.finish(done)


RESIZE = Definition(steps={"resize": _resize}, give_up=_give_up)
