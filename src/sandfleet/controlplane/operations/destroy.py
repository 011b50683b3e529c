"""Destroy: stop the VM until its worker proves that nothing is left, then free its place.

It never gives up: as long as nobody has proven the VM gone, its memory and its disk may
be in use, and neither may be promised to another sandbox. An unreachable worker proves
nothing; a worker that the fleet has confirmed gone does.
"""

from __future__ import annotations

from dataclasses import replace

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.operations.backoff import Backoff
from sandfleet.controlplane.operations.creation_queue import CAPACITY_TOPIC
from sandfleet.controlplane.operations.records import UNBOUNDED_S, ended, log_row, new_operation
from sandfleet.controlplane.operations.step import Definition, Run
from sandfleet.model.errors import NotFound, SandfleetError, StaleVersion, StoreUnavailable
from sandfleet.model.ids import OperationId, WorkerId
from sandfleet.model.operation import BACKGROUND_KINDS, Operation, OperationKind, OperationState
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.worker import WorkerState
from sandfleet.wire.worker_messages import StopVm

ACTOR = "destroy"
_WRITE_ATTEMPTS = 20


def destroy_operation(
    plane: ControlPlane, sandbox: Sandbox, *, new_id: OperationId, reason: str
) -> Operation:
    """Return the operation that removes what a sandbox that has ended may have left on its worker."""
    return new_operation(
        plane,
        sandbox,
        operation_id=new_id,
        kind=OperationKind.DESTROY,
        step="stop",
        deadline_s=UNBOUNDED_S,
        arguments={
            "worker_id": sandbox.worker_id,
            "epoch": sandbox.epoch,
            "reason": reason,
        },
    )


async def _stop(run: Run, operation: Operation) -> Operation:
    """Repeat until there is proof."""
    backoff = Backoff(run.plane.clock)
    while not await _is_proven_gone(run, operation):
        await backoff.wait()
    return await _release(run, operation)


async def _is_proven_gone(run: Run, operation: Operation) -> bool:
    """Whether the worker has said that it holds nothing, and nothing can come after that."""
    if operation.arguments["worker_id"] is None:
        return True
    if await _has_open_work(run, operation):
        return False
    try:
        worker = await run.plane.stores.workers.get(WorkerId(operation.arguments["worker_id"]))
        if worker.state is WorkerState.GONE:
            return True
        order = StopVm(epoch=operation.arguments["epoch"])
        await run.plane.worker_client.stop_vm(worker.id, worker.http_url, operation.sandbox_id, order)
    except StoreUnavailable:
        raise
    except SandfleetError:
        return False
    return True


async def _has_open_work(run: Run, operation: Operation) -> bool:
    """Whether something that is still open may have a call under way; it is cancelled and ends soon."""
    still_open = await run.plane.stores.operations.open_for(operation.sandbox_id)
    return any(one.kind not in BACKGROUND_KINDS for one in still_open)


async def _release(run: Run, operation: Operation) -> Operation:
    """Free the place and end, in one transaction, and tell who waits for a place."""
    done = ended(operation, OperationState.SUCCEEDED, at=run.plane.clock.now())
    for _ in range(_WRITE_ATTEMPTS):
        try:
            before = await run.fresh_row(operation)
        except NotFound:
            await run.plane.stores.operations.finish(done, releases=True)
            break
        after = replace(
            before,
            worker_id=None,
            version=before.version + 1,
            changed_at=run.plane.clock.now(),
        )
        log = log_row(
            before,
            after,
            event="destroyed",
            actor=ACTOR,
            reason="the worker holds nothing of it any more",
            operation=operation,
        )
        try:
            await run.plane.stores.operations.finish(done, sandbox=after, transition=log, releases=True)
            break
        except StaleVersion:
            continue
    else:
        raise StaleVersion(f"sandbox {operation.sandbox_id} is changing too fast")
    await run.plane.wake_ups.publish(CAPACITY_TOPIC)
    return done


DESTROY = Definition(steps={"stop": _stop})
