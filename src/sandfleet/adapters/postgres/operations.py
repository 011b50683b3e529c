"""Durable operations in PostgreSQL (port: `ports.stores.OperationStore`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, BindParameter, Double, Text, any_, bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from sandfleet.adapters.postgres import rows, saved_rows, statements
from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.operation_statements import finish_statement
from sandfleet.adapters.postgres.placement import raise_stale
from sandfleet.adapters.postgres.tables import operations
from sandfleet.model.errors import NotFound, StaleLease
from sandfleet.model.ids import OperationId, SandboxId
from sandfleet.model.operation import Operation
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.snapshot import Snapshot
from sandfleet.model.transition import Transition

_LEASE_S: BindParameter[float] = bindparam("new_lease_s", type_=Double())
_GET = statements.select_operation().where(operations.c.id == bindparam("id"))
_OPEN = (
    statements.select_operation()
    .where(operations.c.sandbox_id == bindparam("sandbox"), operations.c.state == "running")
    .order_by(operations.c.created_at)
)
_IDS: BindParameter[Any] = bindparam("ids", type_=ARRAY(Text))
_OPEN_OF_ALL = (
    statements.select_operation()
    .where(operations.c.sandbox_id == any_(_IDS), operations.c.state == "running")
    .order_by(operations.c.created_at)
)
_FIND = statements.select_operation().where(operations.c.id == any_(_IDS))
_HELD = statements.guard(operation=True)
_WRITTEN = statements.update_operation(_HELD)
_SAVE = select(_WRITTEN)
_EXTEND = (
    update(operations)
    .where(
        operations.c.id == bindparam("o_id"),
        operations.c.lease_token == bindparam("o_lease_token"),
        operations.c.state == "running",
    )
    .values(lease_deadline_at=statements.in_seconds(_LEASE_S), lease_s=_LEASE_S)
    .returning(operations, statements.is_overdue())
)
_ORPHANS = (
    select(operations.c.id)
    .where(operations.c.state == "running", operations.c.lease_deadline_at < func.now())
    .order_by(operations.c.lease_deadline_at)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
    .cte("orphans")
)
_TAKE_OVER = (
    update(operations)
    .where(operations.c.id == _ORPHANS.c.id)
    .values(
        lease_holder=bindparam("new_holder"),
        lease_token=operations.c.lease_token + 1,
        lease_deadline_at=statements.in_seconds(_LEASE_S),
        lease_s=_LEASE_S,
    )
    .returning(operations, statements.is_overdue())
)
_LET_GO = (
    update(operations)
    .where(operations.c.state == "running", operations.c.lease_holder == bindparam("old_holder"))
    .values(lease_deadline_at=func.now())
)


class PostgresOperationStore:
    """Operations, their leases, and their ends."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, operation_id: OperationId) -> Operation:
        """Return it."""
        found = await self._database.statement(
            lambda connection: connection.execute(_GET, {"id": operation_id}), repeatable=True
        )
        row = found.first()
        if row is None:
            raise NotFound(f"operation {operation_id} not found")
        return rows.operation_from(row)

    async def save(self, operation: Operation) -> Operation:
        """Write it if the lease is ours."""
        # Written twice by the same holder is as good as once.
        return await self._leased(_SAVE, statements.operation_parameters(operation), operation)

    async def extend(self, operation: Operation, *, lease_s: float) -> Operation:
        """Prolong the lease."""
        parameters = {
            "o_id": operation.id,
            "o_lease_token": operation.lease.token if operation.lease else -1,
            "new_lease_s": lease_s,
        }
        return await self._leased(_EXTEND, parameters, operation)

    async def finish(  # noqa: PLR0913 -- what an end may mean
        self,
        operation: Operation,
        *,
        sandbox: Sandbox | None = None,
        transition: Transition | None = None,
        follow_up: Operation | None = None,
        releases: bool = False,
        snapshot: Snapshot | None = None,
        reserved_mib: int | None = None,
    ) -> Operation:
        """End it with all that its end means, in one statement."""
        parameters = statements.operation_parameters(operation)
        if sandbox is not None:
            parameters.update(statements.sandbox_parameters(sandbox))
        if transition is not None:
            parameters.update(statements.transition_parameters(transition))
        if follow_up is not None:
            parameters.update(statements.new_operation_parameters(follow_up))
        if releases or reserved_mib is not None:
            parameters["r_sandbox_id"] = operation.sandbox_id
        if reserved_mib is not None:
            parameters["r_amount"] = reserved_mib
        if snapshot is not None:
            parameters.update(saved_rows.snapshot_parameters(snapshot))
            parameters.update(saved_rows.fate_parameters(snapshot, at=operation.finished_at))
        statement = finish_statement(
            sandbox=sandbox is not None,
            transition=transition is not None,
            follow_up=follow_up is not None,
            releases=releases,
            snapshot=snapshot is not None,
            reserves=reserved_mib is not None,
        )

        async def work(connection: AsyncConnection) -> None:
            if (await connection.execute(statement, parameters)).scalar_one() == 0:
                await raise_stale(connection, operation, sandbox)

        await self._database.statement(work)
        return operation

    async def take_over(self, *, holder: str, lease_s: float, limit: int = 10) -> Sequence[Operation]:
        """Lease what nobody holds any more."""
        parameters = {"new_holder": holder, "new_lease_s": lease_s, "limit": limit}
        found = await self._database.statement(lambda connection: connection.execute(_TAKE_OVER, parameters))
        return [rows.operation_from(row) for row in found]

    async def let_go(self, *, holder: str) -> int:
        """End the holder's leases."""
        result = await self._database.statement(
            lambda connection: connection.execute(_LET_GO, {"old_holder": holder}), repeatable=True
        )
        return result.rowcount

    async def open_for(self, sandbox_id: SandboxId) -> Sequence[Operation]:
        """Return those that have not ended."""
        found = await self._database.statement(
            lambda connection: connection.execute(_OPEN, {"sandbox": sandbox_id}), repeatable=True
        )
        return [rows.operation_from(row) for row in found]

    async def open_for_all(self, sandbox_ids: Sequence[SandboxId]) -> Mapping[SandboxId, Sequence[Operation]]:
        """Return those of many."""
        found: dict[SandboxId, list[Operation]] = {}
        for operation in await self._read(_OPEN_OF_ALL, sandbox_ids):
            found.setdefault(operation.sandbox_id, []).append(operation)
        return found

    async def find(self, operation_ids: Sequence[OperationId]) -> Mapping[OperationId, Operation]:
        """Return many."""
        return {operation.id: operation for operation in await self._read(_FIND, operation_ids)}

    async def _read(self, statement: Any, ids: Sequence[str]) -> Sequence[Operation]:
        if not ids:
            return []
        found = await self._database.statement(
            lambda connection: connection.execute(statement, {"ids": list(ids)}), repeatable=True
        )
        return [rows.operation_from(row) for row in found]

    async def _leased(self, statement: Any, parameters: dict[str, Any], operation: Operation) -> Operation:
        found = await self._database.statement(
            lambda connection: connection.execute(statement, parameters), repeatable=True
        )
        row = found.first()
        if row is None:
            raise StaleLease(f"operation {operation.id} is no longer ours")
        return rows.operation_from(row)
