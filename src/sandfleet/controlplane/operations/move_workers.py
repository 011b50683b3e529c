"""What a migration asks of its two workers, and what it takes for an answer."""

from __future__ import annotations

import asyncio

import msgspec

from sandfleet.controlplane.operations.release import require_mover
from sandfleet.controlplane.operations.step import Run
from sandfleet.model.errors import (
    MoveUndecided,
    NoCapacity,
    NotFound,
    SandfleetError,
    SnapshotUnusable,
    StoreUnavailable,
    Unavailable,
)
from sandfleet.model.ids import WorkerId
from sandfleet.model.operation import Operation
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.worker import WorkerState
from sandfleet.ports.move_client import WorkerAddress
from sandfleet.wire.move_manifest import Landing, MoveManifest
from sandfleet.wire.move_messages import EndMove, MoveLimits, MoveState, ReceiveMove, SendMove
from sandfleet.wire.worker_messages import StopVm

ASKED_AGAIN_AFTER_S = 2.0
"""How often the progress of a move is written down."""
LANDING_TIMEOUT_S = 20.0
"""How long a target may take to say again where it expects what is being sent to it."""
DEAD = "dead"


class TargetSilent(Unavailable):
    """The target does not answer, so nothing can be heard of the source either."""

    code = "worker_unreachable"


async def landing(run: Run, operation: Operation, sandbox: Sandbox, manifest: MoveManifest) -> Landing:
    """Return where the target expects it; what its disks stand on is brought there if it is missing."""
    mover = require_mover(run.plane)
    target = await address(run, operation, "target")
    order = ReceiveMove(
        sandbox_id=sandbox.id,
        source_worker=operation.arguments["source"],
        epoch=operation.arguments["epoch"] + 1,
        manifest=manifest,
        may_post_copy=run.plane.settings.move_may_post_copy,
    )
    try:
        return await mover.receive_move(target, operation.id, order)
    except (SnapshotUnusable, NotFound):
        source = await address(run, operation, "source")
        await mover.publish_backings(source, sandbox.id, epoch=sandbox.epoch)
        return await mover.receive_move(target, operation.id, order)


async def sent(run: Run, operation: Operation, sandbox: Sandbox) -> MoveState:
    """Return how it stands at the source, which begins to send with the first call; TargetSilent."""
    manifest = msgspec.convert(operation.progress["manifest"], MoveManifest)
    source = await address(run, operation, "source")
    settings = run.plane.settings
    order = SendMove(
        epoch=sandbox.epoch,
        move_id=operation.id,
        target_worker=operation.arguments["target"],
        landing=await _landing_again(run, operation, sandbox, manifest),
        limits=MoveLimits(
            downtime_ms_max=settings.move_downtime_ms_max,
            silent_s_max=settings.move_silent_s_max,
            rounds_max=settings.move_rounds_max,
            may_throttle=settings.move_may_throttle,
            may_post_copy=settings.move_may_post_copy,
            mib_per_s_max=settings.move_mib_per_s_max,
        ),
        wait_s=ASKED_AGAIN_AFTER_S,
    )
    return await require_mover(run.plane).send_move(source, sandbox.id, order)


async def _landing_again(run: Run, operation: Operation, sandbox: Sandbox, manifest: MoveManifest) -> Landing:
    try:
        async with asyncio.timeout(LANDING_TIMEOUT_S):
            return await landing(run, operation, sandbox, manifest)
    except (NoCapacity, StoreUnavailable):
        raise
    except (Unavailable, TimeoutError) as error:
        raise TargetSilent(f"worker {operation.arguments['target']} does not answer") from error


async def is_source_dead(run: Run, operation: Operation) -> bool:
    """Whether the source says that its QEMU has ended, or somebody that its host is no more."""
    try:
        source = await address(run, operation, "source")
        vm = await run.plane.worker_client.vm(source.worker_id, source.url, operation.sandbox_id)
    except WorkerLost:
        return True
    except StoreUnavailable:
        raise
    except SandfleetError:
        return False
    return vm.state == DEAD and vm.epoch == operation.arguments["epoch"]


async def stays(run: Run, operation: Operation) -> bool:
    """Whether the source runs it, or has none of it: what is lost is found by those who look for it.

    What was torn apart while its memory followed its guest can run at neither side: what is left is ended.
    """
    epoch, under = operation.arguments["epoch"], operation.progress.get("under", 0)
    order = EndMove(epoch=epoch, move_id=operation.id, under=under)
    try:
        source = await address(run, operation, "source")
        await require_mover(run.plane).stay(source, operation.sandbox_id, order)
    except StoreUnavailable:
        raise
    except (NotFound, WorkerLost):
        return True
    except SandfleetError as error:
        return error.code == MoveUndecided.code and await _is_ended(run, operation, source)
    return True


async def _is_ended(run: Run, operation: Operation, source: WorkerAddress) -> bool:
    last = StopVm(epoch=max(operation.arguments["epoch"], operation.progress.get("under", 0)))
    try:
        await run.plane.worker_client.stop_vm(source.worker_id, source.url, operation.sandbox_id, last)
    except StoreUnavailable:
        raise
    except SandfleetError:
        return False
    return True


class WorkerLost(SandfleetError):
    """The worker's host is no more, by somebody's word."""

    code = "worker_gone"


async def address(run: Run, operation: Operation, which: str) -> WorkerAddress:
    """Return where `source` or `target` listens now."""
    worker = await run.plane.stores.workers.get(WorkerId(operation.arguments[which]))
    if worker.state is WorkerState.GONE:
        raise WorkerLost(f"worker {worker.id} is gone")
    return WorkerAddress(worker.id, worker.http_url)
