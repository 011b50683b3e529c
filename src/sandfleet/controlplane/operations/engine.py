"""Runs operations on this replica: steps, lease, cancellation, deadline, end.

Rule 1: an operation runs here only while its lease is ours. The lease is renewed well
before its end; when it is lost, or cannot be confirmed in time, the steps stop at once.
Rule 2: nothing here decides what an operation does: the definitions do.
Rule 3: an operation that this process drops (crash, shutdown, too long without
PostgreSQL) is taken over by any replica once its lease is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.controlplane.dependencies import ControlPlane, sandbox_topic
from sandfleet.controlplane.operations.backoff import Backoff
from sandfleet.controlplane.operations.creation_queue import CreationQueue
from sandfleet.controlplane.operations.step import Definition, Run
from sandfleet.model.errors import (
    Conflict,
    NotFound,
    SandfleetError,
    StaleLease,
    StoreUnavailable,
    Unavailable,
)
from sandfleet.model.ids import OperationId, SandboxId
from sandfleet.model.operation import Lease, Operation, OperationKind, OperationState
from sandfleet.model.sandbox import Sandbox

RUNNING_MAX = 5000
LET_GO_TOPIC = "operations:let-go"
"""Hints that operations wait to be taken over."""
_UNEXPECTED_MAX = 3
"""After so many failures that no step foresaw, the operation gives up."""

log = structlog.get_logger(__name__)


def step_points(definitions: Mapping[OperationKind, Definition]) -> list[str]:
    """Return the fault points of a server: each step of each operation, before it and when it is written."""
    return [
        f"{kind}.{step}.{moment}"
        for kind, definition in definitions.items()
        for step in definition.steps
        for moment in ("begun", "written")
    ]


class Cancelled(Conflict):
    """Somebody asked the operation to cancel: the sandbox was killed."""

    code = "cancelled"


class Overdue(Unavailable):
    """The operation did not end by its deadline."""

    code = "deadline_exceeded"


@dataclass(slots=True)
class _Held:
    """An operation that runs here."""

    operation: Operation
    run: Run
    is_giving_up: bool = False
    interruption: SandfleetError | None = None
    look: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there may be news of the operation in the store."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    reason: SandfleetError | None
    failure: Exception | None = None


async def _caught(work: Coroutine[Any, Any, SandfleetError | None]) -> _Outcome:
    """Keep a failure as a value, so that it reaches its reader without a group around it."""
    try:
        return _Outcome(await work)
    except Exception as error:  # noqa: BLE001 -- raised again by the reader
        return _Outcome(None, error)


class OperationEngine:
    """The operations of this replica."""

    def __init__(self, plane: ControlPlane, definitions: Mapping[OperationKind, Definition]) -> None:
        self._plane = plane
        self._definitions = definitions
        self._lease_s = plane.settings.operation_lease_s
        self._tasks: TaskGroup | None = None
        self._running: dict[OperationId, tuple[_Held, asyncio.Task[None]]] = {}
        self.queue = CreationQueue(plane.wake_ups)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[OperationEngine]:
        """Run operations within; at the end drop them so that others take over at once."""
        async with TaskGroup() as tasks:
            self._tasks = tasks
            serving = tasks.create_task(self.queue.run())
            try:
                yield self
            finally:
                self._tasks = None
                serving.cancel()
                for _, task in self._running.values():
                    task.cancel()
        with suppress(StoreUnavailable):
            if await self._plane.stores.operations.let_go(holder=self._plane.replica_id):
                await self._plane.wake_ups.publish(LET_GO_TOPIC)

    @property
    def room(self) -> int:
        """How many more operations may run here."""
        return max(0, RUNNING_MAX - len(self._running)) if self._tasks else 0

    def __len__(self) -> int:
        return len(self._running)

    def start(self, operation: Operation, *, sandbox: Sandbox | None = None) -> None:
        """Run an operation whose lease is ours. Without room it is left to a take-over."""
        if self._tasks is None or not self.room or operation.id in self._running:
            return
        held = _Held(operation, Run(self._plane, self.queue, self.start, sandbox=sandbox))
        task = self._tasks.create_task(self._drive(held), name=operation.id)
        self._running[operation.id] = (held, task)
        task.add_done_callback(lambda _: self._running.pop(operation.id, None))

    def lease_of(self, operation_id: OperationId) -> Lease | None:
        """Return the lease under which the operation runs here, None if it does not."""
        held, _ = self._running.get(operation_id, (None, None))
        return held.operation.lease if held is not None else None

    def look_again(self, sandbox_id: SandboxId) -> None:
        """Have the operations of a sandbox look at once whether they are to cancel."""
        for held, _ in self._running.values():
            if held.operation.sandbox_id == sandbox_id:
                held.look.set()

    async def wait_for(self, operation_id: OperationId, *, timeout_s: float) -> Operation:
        """Return the operation as it stands when it has ended, or after `timeout_s`."""
        operation = await self._plane.stores.operations.get(operation_id)
        until = self._plane.clock.monotonic() + timeout_s
        async for _ in self._plane.wake_ups.subscribe(sandbox_topic(operation.sandbox_id)):
            operation = await self._plane.stores.operations.get(operation_id)
            is_over = operation.state is not OperationState.RUNNING
            if is_over or self._plane.clock.monotonic() >= until:
                break
        return operation

    async def _drive(self, held: _Held) -> None:
        operation = held.operation
        bound = log.bind(operation_id=operation.id, kind=operation.kind, sandbox_id=operation.sandbox_id)
        try:
            await self._to_its_end(held)
        except StaleLease:
            bound.info("operation_lost", step=held.operation.step)
        except StoreUnavailable:
            bound.warning("operation_dropped", step=held.operation.step, reason="store unavailable")
        except Exception:  # noqa: BLE001 -- one operation's defect must not end the others
            bound.exception("operation_dropped", step=held.operation.step)
        else:
            bound.debug("operation_ended", state=held.operation.state)
            took = self._plane.clock.now() - operation.created_at
            self._plane.observer.operation_ended(held.operation, seconds=took.total_seconds())
        await self._plane.wake_ups.publish(sandbox_topic(operation.sandbox_id))

    async def _to_its_end(self, held: _Held) -> None:
        definition = self._definitions[held.operation.kind]
        interruption = await self._leased(held, self._steps(held, definition))
        if interruption is None or definition.give_up is None:
            return
        held.is_giving_up = True
        await self._leased(held, self._give_up(held, definition, interruption))

    async def _leased(
        self, held: _Held, work: Coroutine[Any, Any, SandfleetError | None]
    ) -> SandfleetError | None:
        """Run `work` while the lease is ours; return why it must be given up, if it must."""
        held.interruption = None
        async with TaskGroup() as tasks:
            working = tasks.create_task(_caught(work))
            watching = tasks.create_task(self._watch(held, working))
            working.add_done_callback(lambda _: watching.cancel())
        if working.cancelled():
            if held.interruption is None or isinstance(held.interruption, StaleLease):
                raise held.interruption or StaleLease("the work was cancelled")
            return held.interruption
        outcome = working.result()
        if outcome.failure is not None:
            raise outcome.failure
        return outcome.reason

    async def _steps(self, held: _Held, definition: Definition) -> SandfleetError | None:
        backoff = Backoff(self._plane.clock)
        unexpected = 0
        is_certain = True
        while held.operation.state is OperationState.RUNNING:
            name = f"{held.operation.kind}.{held.operation.step}"
            try:
                if not is_certain:
                    await self._read_again(held)
                    is_certain = True
                    continue
                await self._plane.faults.at_step(f"{name}.begun")
                held.operation = await definition.steps[held.operation.step](held.run, held.operation)
                await self._plane.faults.at_step(f"{name}.written")
                continue
            except StaleLease:
                raise
            except StoreUnavailable:
                held.run.sandbox = None
            except Exception as error:
                unexpected += 1
                held.run.sandbox = None
                log.exception("step_failed", operation_id=held.operation.id, step=held.operation.step)
                if definition.give_up is not None and unexpected >= _UNEXPECTED_MAX:
                    return error if isinstance(error, SandfleetError) else SandfleetError("a defect")
            is_certain = False
            await backoff.wait()
        return None

    async def _read_again(self, held: _Held) -> None:
        """Take the operation as it is stored: what failed may have been written all the same.

        A step that is repeated from where it began would meet its own traces.
        """
        stored = await self._plane.stores.operations.get(held.operation.id)
        token = held.operation.lease.token if held.operation.lease else None
        if stored.lease is None or stored.lease.token != token:
            raise StaleLease(f"operation {held.operation.id} is no longer ours")
        held.operation = stored

    async def _give_up(
        self, held: _Held, definition: Definition, reason: SandfleetError
    ) -> SandfleetError | None:
        assert definition.give_up is not None
        backoff = Backoff(self._plane.clock)
        held.run.sandbox = None
        while held.operation.state is OperationState.RUNNING:
            try:
                # The step that was cut short may have been written all the same.
                await self._read_again(held)
                held.operation = await definition.give_up(held.run, held.operation, reason)
            except StoreUnavailable:
                await backoff.wait()
        return None

    async def _watch(self, held: _Held, working: asyncio.Task[Any]) -> None:
        """Keep the lease; cancel the work when it is lost, cancelled or overdue."""
        clock = self._plane.clock
        confirmed_at = clock.monotonic()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._lease_s / 3):
                    await held.look.wait()
            held.look.clear()
            asked_at = clock.monotonic()
            try:
                stored = await self._plane.stores.operations.extend(held.operation, lease_s=self._lease_s)
            except (StaleLease, NotFound):
                held.interruption = StaleLease(f"operation {held.operation.id} is no longer ours")
            except StoreUnavailable:
                if clock.monotonic() - confirmed_at >= self._lease_s * 0.8:
                    held.interruption = StaleLease("the lease could not be confirmed in time")
            else:
                confirmed_at = asked_at
                if not held.is_giving_up:
                    held.interruption = self._news(stored)
            if held.interruption is not None:
                working.cancel()
                return

    def _news(self, stored: Operation) -> SandfleetError | None:
        if self._definitions[stored.kind].give_up is None:
            return None
        if stored.cancel_requested:
            return Cancelled("the sandbox was killed")
        return Overdue("the operation did not end in time") if stored.is_overdue else None
