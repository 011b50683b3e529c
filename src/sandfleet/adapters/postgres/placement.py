"""Reservations in PostgreSQL (port: `ports.stores.PlacementStore`)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, bindparam, delete, func, select, text, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from sandfleet.adapters.postgres import rows, statements
from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.tables import (
    operations,
    reservations,
    sandboxes,
    second_places,
    snapshots,
    workers,
)
from sandfleet.lifecycle.placing import PlacedRows, placed_rows
from sandfleet.model.errors import StaleLease, StaleVersion
from sandfleet.model.ids import OperationId, OrganisationId, SandboxId, WorkerId
from sandfleet.model.operation import Operation
from sandfleet.model.resources import Resources
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.snapshot import SnapshotState
from sandfleet.model.transition import Transition
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.placement import FleetView, NoPlacement, PlacementRequest, SavedState
from sandfleet.planning.queue import Waiting
from sandfleet.ports.stores import Placed, PlacementDecision

PLACEMENT_LOCK = 7_305_601_002
_WAITING_MAX = 1000

PLACEMENT_LOCKED = text("SELECT pg_advisory_xact_lock(:key)").bindparams(key=PLACEMENT_LOCK)
_AMOUNTS = ("worker_id", "memory_mib", "cpu_count", "disk_mib")
_HELD = union_all(
    *[select(*[table.c[name] for name in _AMOUNTS]) for table in (reservations, second_places)]
).subquery()
_SUMS = (
    select(
        _HELD.c.worker_id,
        func.sum(_HELD.c.memory_mib).label("memory_mib"),
        func.sum(_HELD.c.cpu_count).label("cpu"),
        func.sum(_HELD.c.disk_mib).label("disk_mib"),
    )
    .group_by(_HELD.c.worker_id)
    .subquery()
)
COMMITTED = (
    func.coalesce(_SUMS.c.memory_mib, 0).label("committed_memory_mib"),
    func.coalesce(_SUMS.c.cpu, 0).label("committed_cpu"),
    func.coalesce(_SUMS.c.disk_mib, 0).label("committed_disk_mib"),
)
WORKERS = select(workers, *COMMITTED).select_from(workers.outerjoin(_SUMS, _SUMS.c.worker_id == workers.c.id))
_QUEUED = (operations.c.state == "running") & (operations.c.step == "queue")
_QUEUE_LENGTH = select(func.count()).select_from(operations).where(_QUEUED)
_VIEW = WORKERS.add_columns(_QUEUE_LENGTH.scalar_subquery().label("queue_length")).where(
    workers.c.state != WorkerState.GONE.value
)
_SHAPE = snapshots.c.manifest["shape"]
_WAITING = (
    select(
        operations.c.id,
        operations.c.created_at,
        operations.c.progress,
        snapshots.c.worker_id.label("saved_on"),
        (snapshots.c.state == SnapshotState.DURABLE.value).label("is_durable"),
        _SHAPE["accelerator"].astext.label("accelerator"),
        _SHAPE["host_cpu"].astext.label("host_cpu"),
        sandboxes,
    )
    .join(sandboxes, sandboxes.c.id == operations.c.sandbox_id)
    .outerjoin(snapshots, snapshots.c.id == sandboxes.c.snapshot_id)
    .where(_QUEUED)
    .order_by(operations.c.created_at)
    .limit(_WAITING_MAX)
)
_RELEASE = delete(reservations).where(
    reservations.c.sandbox_id == bindparam("sandbox"), reservations.c.worker_id == bindparam("worker")
)
_RESERVED_ON = select(reservations.c.sandbox_id, reservations.c.memory_mib).where(
    reservations.c.worker_id == bindparam("worker")
)
_TOKEN = select(operations.c.lease_token).where(
    operations.c.id == bindparam("id"), operations.c.state == "running"
)


def _place_statement() -> Select[Any]:
    held = statements.guard(sandbox=True, operation=True)
    return statements.count_of(
        held,
        statements.insert_reservation(held),
        statements.update_sandbox(held),
        statements.update_operation(held),
        statements.insert_transition(held),
    )


def _give_back_statement() -> Select[Any]:
    held = statements.guard(sandbox=True, operation=True)
    return statements.count_of(
        held,
        statements.delete_reservation(held),
        statements.update_sandbox(held),
        statements.update_operation(held),
        statements.insert_transition(held),
    )


_PLACE = _place_statement()
_GIVE_BACK = _give_back_statement()


class PostgresPlacementStore:
    """Decides and reserves under one lock, so two replicas cannot oversell a worker."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # One waiter per replica at the database's lock: the others wait here, without a connection.
        self._turn = asyncio.Lock()

    async def place(
        self, operation: Operation, sandbox: Sandbox, decide: PlacementDecision, *, at: datetime
    ) -> Placed | NoPlacement:
        """Read the view, decide, and write the decision down."""

        async def work(connection: AsyncConnection) -> Placed | NoPlacement:
            await connection.execute(PLACEMENT_LOCKED)
            fleet, waiting = await read_view(connection)
            decision = decide(FleetView(fleet), waiting)
            if isinstance(decision, NoPlacement):
                return decision
            worker = next(worker for worker in fleet if worker.id == decision.worker_id)
            placed = placed_rows(operation, sandbox, worker, decision=decision, at=at)
            await _write(connection, placed)
            return Placed(
                sandbox=placed.sandbox, operation=placed.operation, worker=worker, placement=decision
            )

        async with self._turn:
            return await self._database.transact(work)

    async def give_back(self, operation: Operation, sandbox: Sandbox, transition: Transition) -> None:
        """Remove the reservation and write both rows."""
        parameters = {
            **statements.sandbox_parameters(sandbox),
            **statements.operation_parameters(operation),
            **statements.transition_parameters(transition),
            "r_sandbox_id": sandbox.id,
        }

        async def work(connection: AsyncConnection) -> None:
            if (await connection.execute(_GIVE_BACK, parameters)).scalar_one() == 0:
                await raise_stale(connection, operation, sandbox)

        await self._database.statement(work)

    async def release(self, sandbox_id: SandboxId, *, worker_id: WorkerId) -> None:
        """Remove the reservation."""
        parameters = {"sandbox": sandbox_id, "worker": worker_id}
        await self._database.statement(
            lambda connection: connection.execute(_RELEASE, parameters), repeatable=True
        )

    async def reserved_on(self, worker_id: WorkerId) -> Mapping[SandboxId, int]:
        """Return what is promised there."""
        found = await self._database.statement(
            lambda connection: connection.execute(_RESERVED_ON, {"worker": worker_id}), repeatable=True
        )
        return {SandboxId(row.sandbox_id): int(row.memory_mib) for row in found}

    async def waiting(self) -> Sequence[Waiting]:
        """Return the creates that wait."""
        found = await self._database.statement(
            lambda connection: connection.execute(_WAITING), repeatable=True
        )
        return [_waiting_from(row) for row in found]

    async def queue_length(self) -> int:
        """Return how many creates wait."""
        result = await self._database.statement(
            lambda connection: connection.execute(_QUEUE_LENGTH), repeatable=True
        )
        return int(result.scalar_one())


async def raise_stale(connection: AsyncConnection, operation: Operation, sandbox: Sandbox | None) -> None:
    """Say which check of a guard failed: the operation's lease comes first, its loss ends everything."""
    token = (await connection.execute(_TOKEN, {"id": operation.id})).scalar_one_or_none()
    if operation.lease is None or token != operation.lease.token or sandbox is None:
        raise StaleLease(f"operation {operation.id} is no longer ours")
    raise StaleVersion(f"sandbox {sandbox.id} has changed since version {sandbox.version - 1} was read")


async def read_view(connection: AsyncConnection) -> tuple[Sequence[Worker], Sequence[Waiting]]:
    """Return all workers with what is promised on them, and the creates that wait."""
    found = (await connection.execute(_VIEW)).all()
    waiting: list[Waiting] = []
    if found and found[0].queue_length > 0:
        waiting = [_waiting_from(row) for row in (await connection.execute(_WAITING)).all()]
    return [rows.worker_from(row) for row in found], waiting


def _waiting_from(row: Any) -> Waiting:
    return Waiting(
        operation_id=OperationId(row[0]),
        organisation_id=OrganisationId(row.organisation_id),
        created_at=row[1],
        request=PlacementRequest(
            Resources(row.memory_mib, row.cpu_count, row.disk_mib), row.template, row.region, _saved_from(row)
        ),
        excluded=frozenset(WorkerId(worker) for worker in row.progress.get("excluded", ())),
    )


def _saved_from(row: Any) -> SavedState | None:
    if row.is_durable is None:
        return None
    return SavedState(
        worker_id=None if row.saved_on is None else WorkerId(row.saved_on),
        is_durable=row.is_durable,
        accelerator=row.accelerator or "",
        host_cpu=row.host_cpu or "",
    )


async def _write(connection: AsyncConnection, placed: PlacedRows) -> None:
    sandbox, operation = placed.sandbox, placed.operation
    reservation = {
        "sandbox_id": sandbox.id,
        "organisation_id": sandbox.organisation_id,
        "worker_id": sandbox.worker_id,
        "memory_mib": sandbox.resources.memory_mib,
        "cpu_count": sandbox.resources.cpu_count,
        "disk_mib": sandbox.resources.disk_mib,
    }
    parameters = {
        **statements.sandbox_parameters(sandbox),
        **statements.operation_parameters(operation),
        **statements.transition_parameters(placed.transition),
        **statements.prefixed("r_", reservation),
    }
    if (await connection.execute(_PLACE, parameters)).scalar_one() == 0:
        await raise_stale(connection, operation, sandbox)
