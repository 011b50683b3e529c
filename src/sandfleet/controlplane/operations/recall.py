"""Recall: what was committed to a target that lost it goes on at its source, which still has all of it.

Only by positive word that the target does not run it and never will, and only while the source keeps it
still: it is asked before. Owner and epoch change once more, so whatever was meant for the target is refused
at the source. What the guest did at the target, if it ever ran there, is lost, and the log says so.
A memory that followed its guest is not whole at the source any more: that is lost as any other machine.
"""

from __future__ import annotations

from dataclasses import replace

from sandfleet.controlplane.operations.backoff import Backoff
from sandfleet.controlplane.operations.ending import WRITE_ATTEMPTS
from sandfleet.controlplane.operations.move_workers import WorkerLost, address
from sandfleet.controlplane.operations.records import log_row
from sandfleet.controlplane.operations.step import Run
from sandfleet.lifecycle.sandbox import place
from sandfleet.model.errors import NotFound, SandfleetError, StaleVersion, StoreUnavailable
from sandfleet.model.ids import WorkerId
from sandfleet.model.move import Way
from sandfleet.model.operation import Operation
from sandfleet.model.sandbox import SandboxState

ACTOR = "migrate"
KEPT_STILL = "moving"


async def is_kept(run: Run, operation: Operation) -> bool:
    """Whether the source still has all of it; asked until it answers, or is no more by somebody's word."""
    if operation.progress.get("way") == Way.POST_COPY.value:
        return False
    backoff = Backoff(run.plane.clock, most_s=2.0)
    while True:
        try:
            source = await address(run, operation, "source")
            vm = await run.plane.worker_client.vm(source.worker_id, source.url, operation.sandbox_id)
        except StoreUnavailable:
            raise
        except (WorkerLost, NotFound):
            return False
        except SandfleetError:
            if (await run.fresh_row(operation)).state is not SandboxState.MIGRATING:
                return False
            await backoff.wait()
        else:
            return vm.state == KEPT_STILL and vm.epoch == operation.arguments["epoch"]


async def recalled(run: Run, operation: Operation, error: SandfleetError) -> Operation | None:
    """Change the owner back, with the step that has the source go on; None: it was killed meanwhile."""
    source, target = (WorkerId(operation.arguments[which]) for which in ("source", "target"))
    for _ in range(WRITE_ATTEMPTS):
        before = await run.fresh_row(operation)
        if before.state is not SandboxState.MIGRATING:
            return None
        after = place(before, source, at=run.plane.clock.now())
        told = {"code": error.code, "message": error.message}
        progress = {**operation.progress, "failure": told, "under": after.epoch}
        back = replace(operation, step="back", progress=progress)
        reason = f"{target} lost it ({error.message}), {source} still has all of it"
        log = log_row(before, after, event="recalled", actor=ACTOR, reason=reason, operation=operation)
        try:
            await run.plane.stores.moves.commit(back, after, log, source=target)
        except StaleVersion:
            continue
        run.sandbox = after
        await run.plane.routes.forget(after.id)
        return back
    raise StaleVersion(f"sandbox {operation.sandbox_id} is changing too fast")
