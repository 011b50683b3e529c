"""Create: place -> (queue) -> start -> running.

What if it dies
    after the row            another replica takes over at `place`
    waiting for a place      another replica waits on, for what is left of the queue's time
    after the reservation    another replica repeats `start`; the same epoch twice is one start
    after the VM runs        the same: the worker answers that it runs, the row is written
    killed meanwhile         the row's version has changed, so nothing here can be written any
                             more; the kill's own operation stops the VM and frees the place

A create that finds no place in the queue's time ends `failed` with the code `no_capacity`:
the row stays, as the record of what was asked and why it was not given.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sandfleet.controlplane.dependencies import ControlPlane, CreateOrder, sandbox_topic
from sandfleet.controlplane.operations.backoff import Backoff
from sandfleet.controlplane.operations.creation_queue import CAPACITY_TOPIC
from sandfleet.controlplane.operations.destroy import destroy_operation
from sandfleet.controlplane.operations.records import ended, log_row, new_operation
from sandfleet.controlplane.operations.step import Definition, Run
from sandfleet.lifecycle.sandbox import SandboxEvent, advance
from sandfleet.model.errors import (
    NoCapacity,
    SandfleetError,
    StaleVersion,
    StoreUnavailable,
    Unavailable,
)
from sandfleet.model.ids import WorkerId, operation_id
from sandfleet.model.operation import Operation, OperationKind, OperationState
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.planning.placement import FleetView, NoPlacement, Placement, PlacementRequest
from sandfleet.planning.queue import Waiting, place_in_turn
from sandfleet.ports.coordination import Route
from sandfleet.ports.stores import Placed
from sandfleet.wire.worker_messages import StartVm, VmStatus

ACTOR = "create"
QUEUE_USED = 14 / 15
"""The queue's own part of its time. The rest, 2 s of 30, puts hundreds of 503s on the wire in time."""
RETRY_AFTER_S = 5
_REFUSALS_NAMED = 10
_START_ATTEMPTS = 30
_WRITE_ATTEMPTS = 20


async def begin_create(plane: ControlPlane, order: CreateOrder) -> tuple[Sandbox, Operation]:
    """Write the row with its operation."""
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
    await plane.stores.sandboxes.create(sandbox, operation, replace(log, from_state=None))
    return sandbox, operation


async def _place(run: Run, operation: Operation) -> Operation:
    """Take a place at once, or join the queue."""
    sandbox = await run.row(operation)
    if sandbox.state is not SandboxState.CREATING:
        return await _cancelled(run, operation)
    try:
        answer = await _attempt(run, operation)
    except StaleVersion:
        return await _cancelled(run, operation)
    if isinstance(answer, Placed):
        return _took(run, answer)
    progress = {**operation.progress, **_refusal(answer)}
    progress.pop("excluded", None)  # by the time of the next try that host may have room
    return await run.plane.stores.operations.save(replace(operation, step="queue", progress=progress))


async def _queue(run: Run, operation: Operation) -> Operation:
    """Wait for a place until the queue's time is over."""
    sandbox = await run.row(operation)
    if sandbox.state is not SandboxState.CREATING:
        return await _cancelled(run, operation)
    last: list[NoPlacement] = []

    async def attempt() -> Placed | NoPlacement:
        answer = await _attempt(run, operation)
        if isinstance(answer, NoPlacement):
            last[:] = [answer]
        return answer

    waited_s = (run.plane.clock.now() - operation.created_at).total_seconds()
    left_s = run.plane.settings.creation_queue_s * QUEUE_USED - waited_s
    try:
        async with asyncio.timeout(max(0.0, left_s)):
            return _took(run, await run.queue.wait(_waiting(operation, sandbox), attempt))
    except TimeoutError:
        reasons = _refusal(last[0]) if last else operation.progress
        return await fail(run, operation, _no_capacity(reasons))
    except StaleVersion:
        return await _cancelled(run, operation)
    finally:
        waited = run.plane.clock.now() - operation.created_at
        run.plane.observer.queue_left(seconds=waited.total_seconds())
        # Whoever was behind has one fewer ahead now.
        await run.plane.wake_ups.publish(CAPACITY_TOPIC)


async def _attempt(run: Run, operation: Operation) -> Placed | NoPlacement:
    """Try once; StaleVersion when the sandbox is not to be created any more."""
    for _ in range(_WRITE_ATTEMPTS):
        sandbox = await run.row(operation)
        mine = _waiting(operation, sandbox)

        def decide(
            view: FleetView, waiting: Sequence[Waiting], mine: Waiting = mine
        ) -> Placement | NoPlacement:
            return place_in_turn(mine, waiting, view, run.plane.settings.placement_policy)

        try:
            return await run.plane.stores.placements.place(
                operation, sandbox, decide, at=run.plane.clock.now()
            )
        except StaleVersion:
            if (await run.fresh_row(operation)).state is not SandboxState.CREATING:
                raise
    raise StaleVersion(f"sandbox {operation.sandbox_id} is changing too fast")


def _took(run: Run, placed: Placed) -> Operation:
    run.sandbox = placed.sandbox
    return placed.operation


async def _start(run: Run, operation: Operation) -> Operation:
    """Have the VM running, then write that it runs."""
    sandbox = await run.row(operation)
    if sandbox.state is not SandboxState.CREATING:
        return await _cancelled(run, operation)
    backoff = Backoff(run.plane.clock, most_s=2.0)
    while True:
        try:
            status = await _start_vm(run, operation, sandbox)
            break
        except NoCapacity as error:
            return await _try_elsewhere(run, operation, error)
        except StoreUnavailable:
            raise
        except Unavailable as error:
            # It does not answer, or not yet after its restart. Nothing is known: repeat here,
            # where the VM may already run, rather than start a second one.
            if backoff.attempts >= _START_ATTEMPTS:
                return await fail(run, operation, error)
            await backoff.wait()
            operation = await _look_up_worker(run, operation)
        except SandfleetError as error:
            return await fail(run, operation, error)
    return await _commit(run, operation, status)


async def _start_vm(run: Run, operation: Operation, sandbox: Sandbox) -> VmStatus:
    order = StartVm(
        epoch=sandbox.epoch,
        template=sandbox.template,
        memory_mib=sandbox.resources.memory_mib,
        cpu_count=sandbox.resources.cpu_count,
        disk_mib=sandbox.resources.disk_mib,
        network_enabled=sandbox.network_enabled,
        envs=dict(sandbox.envs),
    )
    worker_id = WorkerId(operation.progress["worker_id"])
    url = operation.progress["worker_url"]
    return await run.plane.worker_client.start_vm(worker_id, url, sandbox.id, order)


async def _look_up_worker(run: Run, operation: Operation) -> Operation:
    """Return the operation with the worker's present address: it may have moved to another port."""
    worker = await run.plane.stores.workers.get(WorkerId(operation.progress["worker_id"]))
    if worker.http_url == operation.progress["worker_url"]:
        return operation
    progress = {**operation.progress, "worker_url": worker.http_url}
    return await run.plane.stores.operations.save(replace(operation, progress=progress))


async def _try_elsewhere(run: Run, operation: Operation, error: NoCapacity) -> Operation:
    """Give the place back: the worker itself said that it holds nothing and cannot."""
    progress: dict[str, object] = dict(operation.progress)
    refused_by = progress.pop("worker_id")
    progress.pop("worker_url")
    progress["excluded"] = sorted({*operation.progress.get("excluded", ()), refused_by})
    again = replace(operation, step="place", progress=progress)
    for _ in range(_WRITE_ATTEMPTS):
        before = await run.row(operation)
        if before.state is not SandboxState.CREATING:
            return await _cancelled(run, operation)
        after = replace(before, worker_id=None, version=before.version + 1, changed_at=run.plane.clock.now())
        log = log_row(before, after, event="refused", actor=ACTOR, reason=error.message, operation=operation)
        try:
            await run.plane.stores.placements.give_back(again, after, log)
        except StaleVersion:
            await run.fresh_row(operation)
            continue
        run.sandbox = after
        return again
    raise StaleVersion(f"sandbox {operation.sandbox_id} is changing too fast")


async def _commit(run: Run, operation: Operation, status: VmStatus) -> Operation:
    for _ in range(_WRITE_ATTEMPTS):
        before = await run.row(operation)
        if before.state is not SandboxState.CREATING:
            return await _cancelled(run, operation)
        now = run.plane.clock.now()
        after = replace(
            advance(before, SandboxEvent.BOOTED, at=now),
            started_at=now,
            active_at=now,
            deadline_at=None,
            template_version=status.template_version or before.template_version,
        )
        elapsed_ms = int((now - before.created_at).total_seconds() * 1000)
        log = log_row(
            before,
            after,
            event=SandboxEvent.BOOTED,
            actor=ACTOR,
            reason="the guest's agent answered",
            operation=operation,
            detail={"elapsed_ms": elapsed_ms},
        )
        done = ended(operation, OperationState.SUCCEEDED, at=now)
        try:
            await run.plane.stores.operations.finish(done, sandbox=after, transition=log)
        except StaleVersion:
            await run.fresh_row(operation)
            continue
        await _announce(run, after, url=operation.progress["worker_url"])
        return done
    raise StaleVersion(f"sandbox {operation.sandbox_id} is changing too fast")


async def _announce(run: Run, sandbox: Sandbox, *, url: str) -> None:
    if sandbox.worker_id is None:
        return
    route = Route(sandbox.id, sandbox.organisation_id, sandbox.worker_id, url, sandbox.epoch)
    await run.plane.wake_ups.publish(sandbox_topic(sandbox.id))
    await run.plane.routes.put(route)


async def fail(run: Run, operation: Operation, error: SandfleetError) -> Operation:
    """End the create: the row `failed` with the reason, and what may have started destroyed."""
    for _ in range(_WRITE_ATTEMPTS):
        before = await run.fresh_row(operation)
        if before.state is not SandboxState.CREATING:
            return await _cancelled(run, operation)
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


async def _cancelled(run: Run, operation: Operation) -> Operation:
    """End the create of a sandbox that was killed: the kill's operation removes the VM."""
    done = ended(operation, OperationState.CANCELLED, at=run.plane.clock.now())
    return await run.plane.stores.operations.finish(done)


def _waiting(operation: Operation, sandbox: Sandbox) -> Waiting:
    return Waiting(
        operation_id=operation.id,
        organisation_id=sandbox.organisation_id,
        created_at=operation.created_at,
        request=PlacementRequest(sandbox.resources, sandbox.template, sandbox.region),
        excluded=frozenset(WorkerId(worker) for worker in operation.progress.get("excluded", ())),
    )


def _refusal(answer: NoPlacement) -> dict[str, object]:
    named = sorted(answer.refusals.items())[:_REFUSALS_NAMED]
    return {"refusals": dict(named), "behind": answer.behind, "retry_after_s": RETRY_AFTER_S}


def _no_capacity(progress: Mapping[str, object]) -> NoCapacity:
    refusals = progress.get("refusals")
    named = refusals.items() if isinstance(refusals, Mapping) else ()
    reasons = "; ".join(f"{worker} {why}" for worker, why in named)
    return NoCapacity(
        f"no worker can take the sandbox: {reasons or 'others were waiting before it'}",
        retry_after_s=RETRY_AFTER_S,
    )


CREATE = Definition(steps={"place": _place, "queue": _queue, "start": _start}, give_up=fail)
