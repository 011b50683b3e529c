"""Grow: a sandbox that moved because its worker had no room is made larger where it is now.

Its place there has the new size since the move began, so nothing can take the room away. What refuses it
leaves the sandbox running at the size that its guest has, and no more than that stays reserved.

What if it dies
    before or after the change    another replica asks again: the same size twice is one change
    no answer in time             which size the guest has is not known: the larger one stays reserved
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sandfleet.controlplane.operations.backoff import Backoff
from sandfleet.controlplane.operations.resize import limit_of, scaling_after
from sandfleet.controlplane.operations.step import Run
from sandfleet.model.errors import NoCapacity, SandfleetError, StaleEpoch, StoreUnavailable, Unavailable
from sandfleet.model.operation import Operation
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.wire.worker_messages import ResizedVm, ResizeVm

GROW_ATTEMPTS = 30
"""How often a target is asked that does not answer."""


@dataclass(frozen=True, slots=True)
class Grown:
    """What the guest has now, None when nobody knows; and what refused what was asked for."""

    memory_mib: int | None
    error: SandfleetError | None = None


def is_to_grow(operation: Operation) -> bool:
    """Whether the move was asked for to have it larger."""
    return "memory_mib" in operation.arguments


async def grown_there(run: Run, operation: Operation) -> Grown | None:
    """Ask for the size until there is an answer; None when the sandbox was ended meanwhile."""
    backoff = Backoff(run.plane.clock, most_s=5.0)
    while True:
        sandbox = await run.fresh_row(operation)
        if sandbox.state is not SandboxState.MIGRATING or sandbox.worker_id is None:
            return None
        try:
            return Grown((await _ask(run, operation, sandbox)).memory_mib)
        except StoreUnavailable:
            raise
        except SandfleetError as error:
            may_pass = isinstance(error, (StaleEpoch, Unavailable)) and not isinstance(error, NoCapacity)
            if not may_pass or backoff.attempts >= GROW_ATTEMPTS:
                return Grown(await _memory_now(run, sandbox), error)
            await backoff.wait()


def resized(sandbox: Sandbox, grown: Grown, operation: Operation) -> Sandbox:
    """Return the row with what its guest has."""
    if grown.memory_mib is not None:
        sandbox = replace(sandbox, resources=replace(sandbox.resources, memory_mib=grown.memory_mib))
    if grown.error:
        return sandbox
    return replace(
        sandbox,
        cpu_percent=operation.arguments["cpu_percent"],
        scaling=scaling_after(sandbox, operation),
    )


async def _ask(run: Run, operation: Operation, sandbox: Sandbox) -> ResizedVm:
    assert sandbox.worker_id is not None
    worker = await run.plane.stores.workers.get(sandbox.worker_id)
    order = ResizeVm(
        epoch=sandbox.epoch,
        sequence=sandbox.version,
        memory_mib=operation.arguments["memory_mib"],
        cpu_percent=limit_of(sandbox, operation.arguments),
    )
    return await run.plane.worker_client.resize_vm(worker.id, worker.http_url, sandbox.id, order)


async def _memory_now(run: Run, sandbox: Sandbox) -> int | None:
    assert sandbox.worker_id is not None
    try:
        worker = await run.plane.stores.workers.get(sandbox.worker_id)
        vm = await run.plane.worker_client.vm(worker.id, worker.http_url, sandbox.id)
    except StoreUnavailable:
        raise
    except SandfleetError:
        return None
    return vm.memory_mib if vm.epoch == sandbox.epoch else None
