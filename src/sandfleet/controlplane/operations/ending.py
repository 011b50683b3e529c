"""The end of an operation that changes its sandbox: one transaction, repeated while the row moves on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sandfleet.controlplane.dependencies import sandbox_topic
from sandfleet.controlplane.operations.creation_queue import CAPACITY_TOPIC
from sandfleet.controlplane.operations.records import ended, log_row
from sandfleet.controlplane.operations.step import Run
from sandfleet.model.errors import SandfleetError, StaleVersion
from sandfleet.model.operation import Operation, OperationState
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.snapshot import Snapshot
from sandfleet.model.transition import Transition

WRITE_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Ending:
    """What the end means: the row after `event`, and what is written with it."""

    sandbox: Sandbox
    event: str
    reason: str
    error: SandfleetError | None = None
    snapshot: Snapshot | None = None
    follow_up: Operation | None = None
    releases: bool = False
    reserved_mib: int | None = None
    """What is to be reserved from now on, where the sandbox may have another size than before."""
    detail: dict[str, Any] = field(default_factory=dict)


async def end(
    run: Run,
    operation: Operation,
    *,
    state: SandboxState,
    actor: str,
    ending: Callable[[Sandbox, datetime], Ending],
) -> Operation | None:
    """Write the end if the sandbox still is in `state`; None when it is not, and nothing was written."""
    for _ in range(WRITE_ATTEMPTS):
        before = await run.fresh_row(operation)
        if before.state is not state:
            return None
        now = run.plane.clock.now()
        what = ending(before, now)
        log = log_row(
            before,
            what.sandbox,
            event=what.event,
            actor=actor,
            reason=what.reason,
            operation=operation,
            detail={"elapsed_ms": int((now - operation.created_at).total_seconds() * 1000), **what.detail},
        )
        outcome = OperationState.FAILED if what.error else OperationState.SUCCEEDED
        done = ended(operation, outcome, at=now, error=what.error)
        try:
            await _write(run, done, what, log)
        except StaleVersion:
            continue
        run.sandbox = what.sandbox
        if what.follow_up is not None:
            run.begin(what.follow_up)
        await _tell(run, what)
        return done
    raise StaleVersion(f"sandbox {operation.sandbox_id} is changing too fast")


async def _write(run: Run, done: Operation, what: Ending, log: Transition) -> None:
    if what.reserved_mib is not None and what.follow_up is None:
        await run.plane.stores.sizes.finish(
            done, sandbox=what.sandbox, transition=log, reserved_mib=what.reserved_mib
        )
        return
    await run.plane.stores.operations.finish(
        done,
        sandbox=what.sandbox,
        transition=log,
        follow_up=what.follow_up,
        releases=what.releases,
        snapshot=what.snapshot,
        reserved_mib=what.reserved_mib,
    )


async def _tell(run: Run, what: Ending) -> None:
    if what.sandbox.state is not SandboxState.RUNNING:
        await run.plane.routes.forget(what.sandbox.id)
    await run.plane.wake_ups.publish(sandbox_topic(what.sandbox.id))
    if what.releases or what.reserved_mib is not None:
        await run.plane.wake_ups.publish(CAPACITY_TOPIC)
