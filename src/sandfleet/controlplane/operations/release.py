"""Release: have nothing left of a sandbox that moved, or did not, at the worker where it is not.

It never gives up: until that worker has proven that it holds nothing, the second place stays promised.
A worker that the fleet has confirmed gone holds nothing. What if it dies: another replica asks again.
"""

from __future__ import annotations

import secrets

from sandfleet.controlplane.dependencies import ControlPlane, sandbox_topic
from sandfleet.controlplane.operations.backoff import Backoff
from sandfleet.controlplane.operations.creation_queue import CAPACITY_TOPIC
from sandfleet.controlplane.operations.records import UNBOUNDED_S, ended, new_operation
from sandfleet.controlplane.operations.step import Definition, Run
from sandfleet.model.errors import (
    Conflict,
    NotAvailable,
    NotFound,
    SandfleetError,
    StaleEpoch,
    StoreUnavailable,
)
from sandfleet.model.ids import WorkerId, operation_id
from sandfleet.model.operation import Operation, OperationKind, OperationState
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.worker import WorkerState
from sandfleet.ports.move_client import MoveClient, WorkerAddress
from sandfleet.wire.move_messages import EndMove
from sandfleet.wire.worker_messages import StopVm


def release_operation(
    plane: ControlPlane, sandbox: Sandbox, migrate: Operation, *, is_moved: bool
) -> Operation:
    """Return the operation that clears the worker where the sandbox of this migration is not."""
    return new_operation(
        plane,
        sandbox,
        operation_id=operation_id(secrets.token_bytes(16)),
        kind=OperationKind.RELEASE,
        step="clear",
        deadline_s=UNBOUNDED_S,
        arguments={
            "move_id": migrate.id,
            "worker_id": migrate.arguments["source" if is_moved else "target"],
            "epoch": migrate.arguments["epoch"],
            "is_moved": is_moved,
        },
    )


def require_mover(plane: ControlPlane) -> MoveClient:
    """Return what reaches both workers."""
    if plane.move_client is None:
        raise NotAvailable("this server moves no sandboxes")
    return plane.move_client


async def _clear(run: Run, operation: Operation) -> Operation:
    """Repeat until there is proof."""
    backoff = Backoff(run.plane.clock, most_s=5.0)
    while not await _is_cleared(run, operation):
        await backoff.wait()
    done = ended(operation, OperationState.SUCCEEDED, at=run.plane.clock.now())
    await run.plane.stores.moves.release(done)
    for topic in (sandbox_topic(operation.sandbox_id), CAPACITY_TOPIC):
        await run.plane.wake_ups.publish(topic)
    return done


async def _is_cleared(run: Run, operation: Operation) -> bool:
    try:
        worker = await run.plane.stores.workers.get(WorkerId(operation.arguments["worker_id"]))
        if worker.state is WorkerState.GONE:
            return True
        where = WorkerAddress(worker.id, worker.http_url)
        if operation.arguments["is_moved"]:
            await _release(run, operation, where)
        else:
            await require_mover(run.plane).abandon_move(where, operation.arguments["move_id"])
    except StoreUnavailable:
        raise
    except SandfleetError:
        return False
    return True


async def _release(run: Run, operation: Operation, where: WorkerAddress) -> None:
    epoch, move_id = operation.arguments["epoch"], operation.arguments["move_id"]
    order = EndMove(epoch=epoch, move_id=move_id)
    try:
        await require_mover(run.plane).release_move(where, operation.sandbox_id, order)
    except (NotFound, Conflict) as error:
        if isinstance(error, StaleEpoch):
            raise
        # Its machine died, or it knows nothing of the move any more: the row says that it is elsewhere.
        await run.plane.worker_client.stop_vm(
            where.worker_id, where.url, operation.sandbox_id, StopVm(epoch=epoch)
        )


RELEASE = Definition(steps={"clear": _clear})
