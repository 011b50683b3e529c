"""Compares what each worker holds with what the store expects of it, both ways.

A VM that nothing owns is quarantined: its worker is told so with its next heartbeat. A
running row without a living VM is recovered from its newest saved state, or ends in
`error`. Both need two sightings in a row by the same leader, and the second also a fresh
answer about that very VM. A worker that does not answer is not judged at all. One that is
`gone` by somebody's word holds nothing: what ran on it is lost without being asked after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.controlplane.dependencies import ControlPlane, sandbox_topic
from sandfleet.controlplane.operations.engine import OperationEngine
from sandfleet.controlplane.operations.recover import decide, loss
from sandfleet.model.errors import NotFound, SandfleetError, StaleTerm, StaleVersion, StoreUnavailable
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.sandbox import SandboxState
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.repair import Held, Mismatch, mismatch
from sandfleet.wire.worker_messages import VmStatus

ACTOR = "reconcile"
_AT_ONCE = 8
_DEAD = "dead"
_NOTHING = Mismatch(unowned=frozenset(), lost={})


@dataclass(slots=True)
class Reconciler:
    """The leader's loop; it remembers only what it saw the time before."""

    plane: ControlPlane
    engine: OperationEngine
    _term: int = 0
    _seen: dict[WorkerId, Mismatch] = field(default_factory=dict)
    _quarantined: dict[WorkerId, Sequence[SandboxId]] = field(default_factory=dict)

    async def tick(self, *, term: int) -> str:
        """Look at every worker that answers."""
        if term != self._term:
            self._term = term
            self._seen.clear()
            self._quarantined.clear()
        known = await self.plane.stores.workers.list()
        workers = [worker for worker in known if worker.state is WorkerState.READY]
        at_once = asyncio.Semaphore(_AT_ONCE)
        done: list[str] = []
        for worker in known:
            if worker.state is WorkerState.GONE:
                done.extend(await self._bury(worker, term=term))

        async def look(worker: Worker) -> None:
            async with at_once:
                done.extend(await self._look(worker, term=term))

        async with TaskGroup() as tasks:
            for worker in workers:
                tasks.create_task(look(worker))
        return "; ".join(sorted(done)) or "rows and machines agree"

    async def _look(self, worker: Worker, *, term: int) -> list[str]:
        try:
            vms = await self.plane.worker_client.vms(worker.id, worker.http_url)
        except SandfleetError:
            self._seen.pop(worker.id, None)  # not seen is not seen twice
            return []
        # After the list: a VM of which the row is not written yet cannot be in it.
        expected = await self.plane.stores.sandboxes.presence(worker.id)
        now = mismatch(expected, [_held(vm) for vm in vms])
        before = self._seen.get(worker.id, _NOTHING)
        self._seen[worker.id] = now
        reports = await self._quarantine(worker, sorted(now.unowned & before.unowned), term=term)
        for sandbox_id in sorted(set(now.lost) & set(before.lost)):
            report = await self._lost(worker, sandbox_id, now.lost, term=term)
            if report:
                reports.append(report)
        return reports

    async def _bury(self, worker: Worker, *, term: int) -> list[str]:
        expected = await self.plane.stores.sandboxes.presence(worker.id)
        # What is under way on it ends by its own deadline, and is looked at then.
        lost = {
            one.sandbox_id: f"the host of worker {worker.id} was lost"
            for one in expected
            if not one.has_open_operation
        }
        reports = [await self._lost(worker, one, lost, term=term) for one in lost]
        return [report for report in reports if report]

    async def _quarantine(self, worker: Worker, unowned: list[SandboxId], *, term: int) -> list[str]:
        if self._quarantined.get(worker.id) == unowned:
            return []
        await self.plane.stores.workers.set_quarantined(worker.id, unowned, term=term)
        self._quarantined[worker.id] = unowned
        return [f"{worker.id} holds {', '.join(unowned)}, which nothing owns"] if unowned else []

    async def _lost(
        self, worker: Worker, sandbox_id: SandboxId, reasons: Mapping[SandboxId, str], *, term: int
    ) -> str | None:
        """Recover the sandbox, or end it in `error`, if its worker says once more that it does not live."""
        before = await self.plane.stores.sandboxes.get_any(sandbox_id)
        if before.state is not SandboxState.RUNNING or before.worker_id != worker.id:
            return None
        is_gone = worker.state is WorkerState.GONE
        if not is_gone and not await self._is_confirmed(worker, sandbox_id):
            return None
        answering = None if is_gone else worker.id
        decision = await decide(self.plane, before, why=reasons[sandbox_id], answering=answering)
        lost = loss(self.plane, before, decision, actor=ACTOR)
        try:
            await self.plane.stores.sandboxes.start_operation(
                lost.sandbox, lost.operation, lost.log, term=term
            )
        except StaleVersion:
            return None
        self.engine.start(lost.operation)
        await self.plane.routes.forget(sandbox_id)
        await self.plane.wake_ups.publish(sandbox_topic(sandbox_id))
        return f"{sandbox_id} was lost: {decision.reason}"

    async def _is_confirmed(self, worker: Worker, sandbox_id: SandboxId) -> bool:
        try:
            vm = await self.plane.worker_client.vm(worker.id, worker.http_url, sandbox_id)
        except NotFound:
            return True
        except (StoreUnavailable, StaleTerm):
            raise
        except SandfleetError:
            return False
        return vm.state == _DEAD


def _held(vm: VmStatus) -> Held:
    return Held(SandboxId(vm.sandbox_id), is_dead=vm.state == _DEAD, reason=vm.reason)
