"""Commands of `run-async` that were accepted before their sandbox was ready.

Rule 1: the row comes before the handle. Whatever happens to this replica, the command is
started or its result says why it was not.
Rule 2: the command's id lets its sandbox know it again, so two replicas that both start it
start one command.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

import structlog

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.controlplane.edge import Edge
from sandfleet.controlplane.proxy.forward import Forwarding, open_answer
from sandfleet.controlplane.proxy.readiness import locate, wait_until_ready
from sandfleet.model.errors import NotReady, SandfleetError, StoreUnavailable, Unavailable
from sandfleet.model.sandbox import Sandbox
from sandfleet.ports.data_plane import DataPlaneRequest
from sandfleet.ports.pending_commands import PendingCommand
from sandfleet.wire.worker_messages import EXEC_ID_HEADER

log = structlog.get_logger(__name__)

QUICK_SILENCE_S = 30.0
BATCH_MAX = 20
_ANSWER_BYTES_MAX = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Caller:
    """For whom a waiting command is forwarded: its own client has its handle and has left."""

    edge: Edge
    request_id: str
    received_at: float


async def accept(edge: Edge, command: PendingCommand, *, request_id: str) -> None:
    """Write the command down and have it started when its sandbox is ready."""
    await edge.plane.stores.commands.add(command, holder=edge.plane.replica_id, lease_s=_lease_s(edge))
    try:
        edge.background.start(_perform(edge, command, request_id), name=f"run-async {command.exec_id}")
    except Unavailable:
        await edge.plane.stores.commands.started(command.exec_id)  # not accepted: nothing may remain
        raise


async def start_what_others_left(edge: Edge) -> None:
    """Take over commands whose replica has died or gone, until cancelled."""
    plane = edge.plane
    while True:
        try:
            left = await plane.stores.commands.take_over(
                holder=plane.replica_id, lease_s=_lease_s(edge), limit=BATCH_MAX
            )
            for command in left:
                log.info("command taken over", exec_id=command.exec_id, sandbox=command.sandbox_id)
                edge.background.start(
                    _perform(edge, command, "taken-over"), name=f"run-async {command.exec_id}"
                )
        except SandfleetError as error:
            log.debug("commands of others", reason=error.message)
        await plane.clock.sleep(plane.settings.loop_interval_s)


async def _perform(edge: Edge, command: PendingCommand, request_id: str) -> None:
    """Start it under a lease that is kept, and write down what came of it."""
    store, holder = edge.plane.stores.commands, edge.plane.replica_id
    async with TaskGroup() as group:
        keeping = group.create_task(_keep(edge, command))
        failure = await _start(edge, command, request_id)
        keeping.cancel()
    if failure is None:
        await store.started(command.exec_id)
    elif edge.drain.is_hurried or isinstance(failure, StoreUnavailable):
        await store.hold(command.exec_id, holder=holder, lease_s=0)  # another replica's turn
    else:
        await store.failed(command.exec_id, failure)


async def _start(edge: Edge, command: PendingCommand, request_id: str) -> SandfleetError | None:
    clock, settings = edge.plane.clock, edge.plane.settings
    if command.remaining_s <= 0:
        return NotReady("the sandbox was not ready in time")
    request = DataPlaneRequest(
        method="POST",
        target=f"/sandboxes/{command.sandbox_id}/exec/run-async",
        headers={"Content-Type": "application/json", EXEC_ID_HEADER: command.exec_id},
        body=command.body,
        silence_max_s=QUICK_SILENCE_S,
    )
    try:
        located = await locate(edge, command.organisation_id, command.sandbox_id)
        if isinstance(located, Sandbox):
            seconds = min(settings.sandbox_wait_s, command.remaining_s)
            located = await wait_until_ready(edge, located, seconds=seconds)
        caller = _Caller(edge, request_id, clock.monotonic())
        async with AsyncExitStack() as stack:
            answer = await open_answer(caller, located, Forwarding(make=lambda: request), stack=stack)
            await answer.read(bytes_max=_ANSWER_BYTES_MAX)
    except SandfleetError as error:
        return error
    return None


async def _keep(edge: Edge, command: PendingCommand) -> None:
    lease_s = _lease_s(edge)
    while True:
        await edge.plane.clock.sleep(lease_s / 3)
        try:
            await edge.plane.stores.commands.hold(
                command.exec_id, holder=edge.plane.replica_id, lease_s=lease_s
            )
        except StoreUnavailable as error:
            log.debug("a command's lease was not prolonged", reason=error.message)


def _lease_s(edge: Edge) -> float:
    return edge.plane.settings.operation_lease_s
