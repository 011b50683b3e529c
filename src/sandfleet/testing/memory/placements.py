"""Reservations in memory (ports: `ports.stores.PlacementStore`, `ports.sizes.SizeStore`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from sandfleet.lifecycle.placing import PlacedRows, placed_rows
from sandfleet.model.errors import NoCapacity, StaleVersion
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.operation import Operation
from sandfleet.model.resources import Resources
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.snapshot import SnapshotState
from sandfleet.model.transition import Transition
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.placement import FleetView, NoPlacement, PlacementRequest, SavedState
from sandfleet.planning.queue import Waiting
from sandfleet.ports.stores import Placed, PlacementDecision
from sandfleet.testing.memory.database import Duplicate, MemoryDatabase, Reservation, StoredOperation
from sandfleet.testing.memory.link import Link

RETRY_S = 5


class MemoryPlacementStore:
    """Decides and reserves in one transaction, so two replicas cannot oversell a worker."""

    def __init__(self, database: MemoryDatabase, link: Link) -> None:
        self._database = database
        self._link = link

    async def place(
        self, operation: Operation, sandbox: Sandbox, decide: PlacementDecision, *, at: datetime
    ) -> Placed | NoPlacement:
        """Read the view, decide, and write the decision down."""

        def work() -> Placed | NoPlacement:
            fleet = self._fleet()
            decision = decide(FleetView(fleet), self._waiting())
            if isinstance(decision, NoPlacement):
                return decision
            worker = next(worker for worker in fleet if worker.id == decision.worker_id)
            placed = placed_rows(operation, sandbox, worker, decision=decision, at=at)
            self._require(placed.operation, placed.sandbox)
            self._write(placed)
            return Placed(
                sandbox=placed.sandbox, operation=placed.operation, worker=worker, placement=decision
            )

        return await self._link.call(work, name="place")

    async def give_back(self, operation: Operation, sandbox: Sandbox, transition: Transition) -> None:
        """Remove the reservation and write both rows."""

        def work() -> None:
            self._require(operation, sandbox)
            self._database.reservations.pop(sandbox.id, None)
            self._database.write_sandbox(sandbox)
            self._database.write_operation(operation)
            self._database.log(transition)

        await self._link.call(work, name="give_back")

    async def release(self, sandbox_id: SandboxId, *, worker_id: WorkerId) -> None:
        """Remove the reservation."""

        def work() -> None:
            held = self._database.reservations.get(sandbox_id)
            if held is not None and held.worker_id == worker_id:
                del self._database.reservations[sandbox_id]

        await self._link.call(work, repeatable=True, name="release")

    async def reserved_on(self, worker_id: WorkerId) -> Mapping[SandboxId, int]:
        """Return what is promised there."""

        def work() -> Mapping[SandboxId, int]:
            return {
                name: held.resources.memory_mib
                for name, held in self._database.reservations.items()
                if held.worker_id == worker_id
            }

        return await self._link.call(work, repeatable=True, name="reserved_on")

    async def queue_length(self) -> int:
        """Return how many creates wait."""
        return await self._link.call(lambda: len(self._queued()), repeatable=True, name="queue_length")

    async def waiting(self) -> Sequence[Waiting]:
        """Return the creates that wait."""
        return await self._link.call(self._waiting, repeatable=True, name="waiting")

    def _require(self, operation: Operation, sandbox: Sandbox) -> None:
        self._database.require_lease(operation)
        self._database.require_version(sandbox)

    def _fleet(self) -> list[Worker]:
        workers = [one for one in self._database.workers.values() if one.state is not WorkerState.GONE]
        return [self._database.read_worker(one) for one in workers]

    def _queued(self) -> list[StoredOperation]:
        queued = [one for one in self._database.running.values() if one.operation.step == "queue"]
        return sorted(queued, key=lambda one: one.operation.created_at)

    def _waiting(self) -> Sequence[Waiting]:
        return [self._waiting_from(one.operation) for one in self._queued()]

    def _waiting_from(self, operation: Operation) -> Waiting:
        row = self._database.sandboxes[operation.sandbox_id]
        return Waiting(
            operation_id=operation.id,
            organisation_id=row.organisation_id,
            created_at=operation.created_at,
            request=PlacementRequest(row.resources, row.template, row.region, self._saved(row)),
            excluded=frozenset(WorkerId(worker) for worker in operation.progress.get("excluded", ())),
        )

    def _saved(self, row: Sandbox) -> SavedState | None:
        snapshot = None if row.snapshot_id is None else self._database.snapshots.get(row.snapshot_id)
        if snapshot is None:
            return None
        shape = snapshot.manifest.get("shape", {})
        return SavedState(
            worker_id=snapshot.worker_id,
            is_durable=snapshot.state is SnapshotState.DURABLE,
            accelerator=shape.get("accelerator", ""),
            host_cpu=shape.get("host_cpu", ""),
        )

    def _write(self, placed: PlacedRows) -> None:
        sandbox = placed.sandbox
        assert sandbox.worker_id is not None
        if sandbox.id in self._database.reservations:
            raise Duplicate(f"reservation of {sandbox.id}")
        self._database.reservations[sandbox.id] = Reservation(
            sandbox.organisation_id, sandbox.worker_id, sandbox.resources
        )
        self._database.write_sandbox(sandbox)
        self._database.write_operation(placed.operation)
        self._database.log(placed.transition)


class MemorySizeStore:
    """Reservations that change with a running sandbox."""

    def __init__(self, database: MemoryDatabase, link: Link) -> None:
        self._database = database
        self._link = link

    async def begin(
        self,
        sandbox: Sandbox,
        operation: Operation,
        transition: Transition,
        *,
        memory_mib: int,
        refuse: Callable[[Worker, int], str | None],
        term: int | None = None,
    ) -> None:
        """Admit, reserve and begin."""

        def work() -> None:
            database = self._database
            quotas = database.organisation(sandbox.organisation_id).quotas
            held = database.reservations.get(sandbox.id)
            if held is None or held.worker_id != sandbox.worker_id:
                raise StaleVersion(f"sandbox {sandbox.id} is on its worker no longer")
            extra = memory_mib - held.resources.memory_mib
            if extra > 0:
                more = Resources(memory_mib=extra, cpu_count=0, disk_mib=0)
                database.admit(sandbox.organisation_id, replace(quotas, sandboxes=None), more)
                worker = database.read_worker(database.workers[held.worker_id])
                reason = refuse(worker, extra)
                if reason is not None:
                    raise NoCapacity(f"worker {worker.id} is {reason}", retry_after_s=RETRY_S)
            database.require_term(term)
            database.require_version(sandbox)
            database.insert_operation(operation)
            if extra > 0:
                database.reserve(sandbox.id, memory_mib)
            database.write_sandbox(sandbox)
            database.log(transition)

        await self._link.call(work, name="begin_size")

    async def finish(
        self, operation: Operation, *, sandbox: Sandbox, transition: Transition, reserved_mib: int
    ) -> None:
        """End it and set the reservation."""

        def work() -> None:
            self._database.require_lease(operation)
            self._database.require_version(sandbox)
            self._database.write_sandbox(sandbox)
            self._database.write_operation(operation)
            self._database.log(transition)
            self._database.reserve(sandbox.id, reserved_mib)

        await self._link.call(work, name="finish_size")

    async def autoscaled(self, *, after: SandboxId | None, limit: int) -> Sequence[Sandbox]:
        """Return a page of those whose size follows their use."""

        def work() -> Sequence[Sandbox]:
            rows = [
                row
                for row in self._database.sandboxes.values()
                if row.scaling.is_automatic and row.state is SandboxState.RUNNING and row.id > (after or "")
            ]
            return sorted(rows, key=lambda row: row.id)[:limit]

        return await self._link.call(work, repeatable=True, name="autoscaled")
