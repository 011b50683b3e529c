"""How a sandbox comes to a worker: place -> (queue) -> start -> running. Create and wake share it.

What if it dies
    after the row            another replica takes over at `place`
    waiting for a place      another replica waits on, for what is left of the queue's time
    after the reservation    another replica repeats `start`; the same epoch twice is one start
    after the VM runs        the same: the worker answers that it runs, the row is written
    killed meanwhile         the row's version has changed, so nothing here can be written any
                             more; the kill's own operation stops the VM and frees the place
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sandfleet.controlplane.dependencies import sandbox_topic
from sandfleet.controlplane.operations.backoff import Backoff
from sandfleet.controlplane.operations.creation_queue import CAPACITY_TOPIC, QUEUE_TOPIC
from sandfleet.controlplane.operations.records import ended, log_row
from sandfleet.controlplane.operations.snapshots import (
    saved_state,
    source_of,
    until_captured,
    usable_snapshot,
)
from sandfleet.controlplane.operations.step import Definition, GiveUp, Run
from sandfleet.lifecycle.sandbox import SandboxEvent, advance
from sandfleet.model.errors import (
    GuestUnresponsive,
    HypervisorFailed,
    NoCapacity,
    SandfleetError,
    SnapshotUnusable,
    StaleVersion,
    StoreUnavailable,
    Unavailable,
)
from sandfleet.model.ids import WorkerId
from sandfleet.model.operation import Operation, OperationState
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.snapshot import Snapshot
from sandfleet.planning.placement import FleetView, NoPlacement, Placement, PlacementRequest
from sandfleet.planning.queue import Waiting, place_in_turn
from sandfleet.ports.coordination import Route
from sandfleet.ports.stores import Placed
from sandfleet.wire.worker_messages import StartVm, VmStatus

QUEUE_USED = 14 / 15
"""The queue's own part of its time. The rest, 2 s of 30, puts hundreds of 503s on the wire in time."""
RETRY_AFTER_S = 5
WRITE_ATTEMPTS = 20
_REFUSALS_NAMED = 10
_START_ATTEMPTS = 30
START_FAILURES_MAX = 3
"""After so many machines that did not come up the operation fails."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One way to come: from which state, what its end means, and what a failure means."""

    actor: str
    state: SandboxState
    event: SandboxEvent
    fail: GiveUp

    def definition(self) -> Definition:
        """Return the steps."""
        return Definition(
            steps={"place": self._place, "queue": self._queue, "start": self._start}, give_up=self.fail
        )

    async def _place(self, run: Run, operation: Operation) -> Operation:
        """Take a place at once, or join the queue."""
        sandbox = await run.row(operation)
        if sandbox.state is not self.state:
            return await cancelled(run, operation)
        await until_captured(run, sandbox)
        try:
            answer = await self._attempt(run, operation)
        except StaleVersion:
            return await cancelled(run, operation)
        except SnapshotUnusable as error:
            return await self.fail(run, operation, error)
        if isinstance(answer, Placed):
            return _took(run, answer)
        run.plane.observer.placement_refused(answer)
        progress = {**operation.progress, **_refusal(answer)}
        progress.pop("excluded", None)  # by the time of the next try that host may have room
        return await run.plane.stores.operations.save(replace(operation, step="queue", progress=progress))

    async def _queue(self, run: Run, operation: Operation) -> Operation:
        """Wait for a place until the queue's time is over."""
        sandbox = await run.row(operation)
        if sandbox.state is not self.state:
            return await cancelled(run, operation)
        last: list[NoPlacement] = []

        async def attempt() -> Placed | NoPlacement:
            answer = await self._attempt(run, operation)
            if isinstance(answer, NoPlacement):
                last[:] = [answer]
            return answer

        waited_s = (run.plane.clock.now() - operation.created_at).total_seconds()
        left_s = run.plane.settings.creation_queue_s * QUEUE_USED - waited_s
        try:
            waiting = _waiting(operation, sandbox, await usable_snapshot(run, sandbox))
            if run.plane.capacity is not None:
                await run.plane.wake_ups.publish(QUEUE_TOPIC)
            async with asyncio.timeout(max(0.0, left_s)):
                return _took(run, await run.queue.wait(waiting, attempt))
        except TimeoutError:
            reasons = _refusal(last[0]) if last else operation.progress
            return await self.fail(run, operation, _no_capacity(reasons))
        except StaleVersion:
            return await cancelled(run, operation)
        except SnapshotUnusable as error:
            return await self.fail(run, operation, error)
        finally:
            waited = run.plane.clock.now() - operation.created_at
            run.plane.observer.queue_left(seconds=waited.total_seconds())
            # Whoever was behind has one fewer ahead now.
            await run.plane.wake_ups.publish(CAPACITY_TOPIC)

    async def _attempt(self, run: Run, operation: Operation) -> Placed | NoPlacement:
        """Try once; StaleVersion when the sandbox is not to come any more."""
        snapshot = await usable_snapshot(run, await run.row(operation))
        for _ in range(WRITE_ATTEMPTS):
            sandbox = await run.row(operation)
            if _is_placed(sandbox):
                raise StoreUnavailable("the outcome of an earlier placement was not known")
            mine = _waiting(operation, sandbox, snapshot)

            def decide(
                view: FleetView, waiting: Sequence[Waiting], mine: Waiting = mine
            ) -> Placement | NoPlacement:
                return place_in_turn(mine, waiting, view, run.plane.settings.placement_policy)

            try:
                return await run.plane.stores.placements.place(
                    operation, sandbox, decide, at=run.plane.clock.now()
                )
            except StaleVersion:
                if (await run.fresh_row(operation)).state is not self.state:
                    raise
        raise StaleVersion(f"sandbox {operation.sandbox_id} is changing too fast")

    async def _start(self, run: Run, operation: Operation) -> Operation:
        """Have the VM running, then write that it runs."""
        sandbox = await run.row(operation)
        if sandbox.state is not self.state:
            return await cancelled(run, operation)
        backoff, failures = Backoff(run.plane.clock, most_s=2.0), 0
        while True:
            try:
                status = await _start_vm(run, operation, sandbox)
                break
            except NoCapacity as error:
                return await self._try_elsewhere(run, operation, error)
            except StoreUnavailable:
                raise
            except Unavailable as error:
                # It does not answer, or not yet after its restart. Nothing is known: repeat here,
                # where the VM may already run, rather than start a second one.
                if backoff.attempts >= _START_ATTEMPTS:
                    return await self.fail(run, operation, error)
                await backoff.wait()
                operation = await _look_up_worker(run, operation)
            except SandfleetError as error:
                # A machine that did not come up has left nothing, and the next one may: a host that
                # is short of everything for a moment is no reason to fail a sandbox.
                failures += 1
                if failures >= START_FAILURES_MAX or not _may_pass(error):
                    return await self.fail(run, operation, error)
                await backoff.wait()
        return await self._commit(run, operation, status)

    async def _try_elsewhere(self, run: Run, operation: Operation, error: NoCapacity) -> Operation:
        """Give the place back: the worker itself said that it holds nothing and cannot."""
        progress: dict[str, object] = dict(operation.progress)
        refused_by = progress.pop("worker_id")
        progress.pop("worker_url")
        progress["excluded"] = sorted({*operation.progress.get("excluded", ()), refused_by})
        again = replace(operation, step="place", progress=progress)
        for _ in range(WRITE_ATTEMPTS):
            before = await run.row(operation)
            if before.state is not self.state:
                return await cancelled(run, operation)
            now = run.plane.clock.now()
            after = replace(before, worker_id=None, version=before.version + 1, changed_at=now)
            log = log_row(
                before, after, event="refused", actor=self.actor, reason=error.message, operation=operation
            )
            try:
                await run.plane.stores.placements.give_back(again, after, log)
            except StaleVersion:
                await run.fresh_row(operation)
                continue
            run.sandbox = after
            return again
        raise StaleVersion(f"sandbox {operation.sandbox_id} is changing too fast")

    async def _commit(self, run: Run, operation: Operation, status: VmStatus) -> Operation:
        for _ in range(WRITE_ATTEMPTS):
            before = await run.row(operation)
            if before.state is not self.state:
                return await cancelled(run, operation)
            now = run.plane.clock.now()
            after = replace(
                advance(before, self.event, at=now),
                started_at=before.started_at or now,
                active_at=now,
                deadline_at=None,
                template_version=status.template_version or before.template_version,
                # A fork is on its own from now on; what was woken keeps its last safe state.
                snapshot_id=before.snapshot_id if self.event is SandboxEvent.WOKEN else None,
            )
            log = log_row(
                before,
                after,
                event=self.event,
                actor=self.actor,
                reason="the guest's agent answered",
                operation=operation,
                detail={"elapsed_ms": int((now - operation.created_at).total_seconds() * 1000)},
            )
            done = ended(operation, OperationState.SUCCEEDED, at=now)
            try:
                await run.plane.stores.operations.finish(done, sandbox=after, transition=log)
            except StaleVersion:
                await run.fresh_row(operation)
                continue
            await announce(run, after, url=operation.progress["worker_url"])
            return done
        raise StaleVersion(f"sandbox {operation.sandbox_id} is changing too fast")


async def cancelled(run: Run, operation: Operation) -> Operation:
    """End the operation of a sandbox that was killed: the kill's operation removes the VM."""
    done = ended(operation, OperationState.CANCELLED, at=run.plane.clock.now())
    return await run.plane.stores.operations.finish(done)


async def announce(run: Run, sandbox: Sandbox, *, url: str) -> None:
    """Tell who waits, and every replica, where the sandbox is served."""
    if sandbox.worker_id is None:
        return
    route = Route(sandbox.id, sandbox.organisation_id, sandbox.worker_id, url, sandbox.epoch)
    await run.plane.wake_ups.publish(sandbox_topic(sandbox.id))
    await run.plane.routes.put(route)


def _is_placed(sandbox: Sandbox) -> bool:
    """Whether an attempt of unknown outcome has placed it: then all of it is to be read again."""
    return sandbox.worker_id is not None


def _took(run: Run, placed: Placed) -> Operation:
    run.sandbox = placed.sandbox
    return placed.operation


def _may_pass(error: SandfleetError) -> bool:
    """Whether the next attempt may end otherwise: the host or the guest failed, nothing was refused."""
    return isinstance(error, GuestUnresponsive) or error.code == HypervisorFailed.code


async def _start_vm(run: Run, operation: Operation, sandbox: Sandbox) -> VmStatus:
    order = StartVm(
        epoch=sandbox.epoch,
        template=sandbox.template,
        memory_mib=sandbox.resources.memory_mib,
        cpu_count=sandbox.resources.cpu_count,
        disk_mib=sandbox.resources.disk_mib,
        network_enabled=sandbox.network_enabled,
        envs=dict(sandbox.envs),
        snapshot=source_of(await usable_snapshot(run, sandbox), sandbox),
        cpu_percent=sandbox.cpu_percent,
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


def _waiting(operation: Operation, sandbox: Sandbox, snapshot: Snapshot | None) -> Waiting:
    request = PlacementRequest(sandbox.resources, sandbox.template, sandbox.region, saved_state(snapshot))
    return Waiting(
        operation_id=operation.id,
        organisation_id=sandbox.organisation_id,
        created_at=operation.created_at,
        request=request,
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
