"""Changes of size in PostgreSQL (port: `ports.sizes.SizeStore`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Select, bindparam, literal_column, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from sandfleet.adapters.postgres import admission, rows, statements
from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.operation_statements import start_statement
from sandfleet.adapters.postgres.placement import PLACEMENT_LOCK, WORKERS, raise_stale
from sandfleet.adapters.postgres.reading import Query
from sandfleet.adapters.postgres.sandbox_reads import SandboxRows
from sandfleet.adapters.postgres.sealing import Sealer
from sandfleet.adapters.postgres.tables import reservations, sandboxes, workers
from sandfleet.adapters.postgres.terms import require_term
from sandfleet.model.errors import NoCapacity, StaleVersion
from sandfleet.model.ids import SandboxId
from sandfleet.model.operation import Operation
from sandfleet.model.resources import Resources
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.transition import Transition
from sandfleet.model.worker import Worker

NO_CAPACITY_RETRY_S = 5
_LOCK = text("SELECT pg_advisory_xact_lock(:key)").bindparams(key=PLACEMENT_LOCK)
_RESERVED = select(reservations.c.memory_mib).where(
    reservations.c.sandbox_id == bindparam("sandbox"), reservations.c.worker_id == bindparam("worker")
)
_WORKER = WORKERS.where(workers.c.id == bindparam("worker"))
_RESERVE = (
    update(reservations)
    .where(reservations.c.sandbox_id == bindparam("sandbox"))
    .values(memory_mib=bindparam("amount"))
)

_AUTOSCALED = Query(
    select(sandboxes)
    .where(
        sandboxes.c.autoscale_enabled,
        sandboxes.c.state == literal_column("'running'"),  # as the index has it
        sandboxes.c.id > bindparam("after"),
    )
    .order_by(sandboxes.c.id)
    .limit(bindparam("most"))
)


def _finish_statement() -> Select[Any]:
    held = statements.guard(sandbox=True, operation=True)
    return statements.count_of(
        held,
        statements.update_sandbox(held),
        statements.update_operation(held),
        statements.insert_transition(held),
        statements.update_reservation(held),
    )


_FINISH = _finish_statement()


class PostgresSizeStore:
    """Reservations that change with a running sandbox."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._rows = SandboxRows(sealer)

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
        """Admit, reserve and begin, in one transaction."""
        parameters = {
            **statements.sandbox_parameters(sandbox),
            **statements.new_operation_parameters(operation),
            **statements.transition_parameters(transition),
        }
        if term is not None:
            parameters["term"] = term
        where = {"sandbox": sandbox.id, "worker": sandbox.worker_id}

        async def work(connection: AsyncConnection) -> None:
            quotas = await admission.lock_organisation(connection, sandbox.organisation_id)
            await connection.execute(_LOCK)
            reserved = (await connection.execute(_RESERVED, where)).scalar_one_or_none()
            if reserved is None:
                raise StaleVersion(f"sandbox {sandbox.id} is on its worker no longer")
            extra = memory_mib - int(reserved)
            if extra > 0:
                more = Resources(memory_mib=extra, cpu_count=0, disk_mib=0)
                await admission.admit(
                    connection, sandbox.organisation_id, replace(quotas, sandboxes=None), more
                )
                await _require_room(connection, sandbox, extra, refuse)
                await connection.execute(_RESERVE, {"sandbox": sandbox.id, "amount": memory_mib})
            begun = await connection.execute(start_statement(term=term is not None), parameters)
            if begun.scalar_one() == 0:
                if term is not None:
                    await require_term(connection, term)
                raise StaleVersion(f"sandbox {sandbox.id} has changed meanwhile")

        await self._database.transact(work)

    async def finish(
        self, operation: Operation, *, sandbox: Sandbox, transition: Transition, reserved_mib: int
    ) -> None:
        """End it and set the reservation, in one statement."""
        parameters = {
            **statements.sandbox_parameters(sandbox),
            **statements.operation_parameters(operation),
            **statements.transition_parameters(transition),
            "r_sandbox_id": sandbox.id,
            "r_amount": reserved_mib,
        }

        async def work(connection: AsyncConnection) -> None:
            if (await connection.execute(_FINISH, parameters)).scalar_one() == 0:
                await raise_stale(connection, operation, sandbox)

        await self._database.statement(work)

    async def autoscaled(self, *, after: SandboxId | None, limit: int) -> Sequence[Sandbox]:
        """Return a page of those whose size follows their use."""
        found = await self._database.read(_AUTOSCALED, {"after": after or "", "most": limit})
        return [self._rows.sandbox(row) for row in found]


async def _require_room(
    connection: AsyncConnection, sandbox: Sandbox, extra: int, refuse: Callable[[Worker, int], str | None]
) -> None:
    row = (await connection.execute(_WORKER, {"worker": sandbox.worker_id})).one()
    reason = refuse(rows.worker_from(row), extra)
    if reason is not None:
        raise NoCapacity(f"worker {sandbox.worker_id} is {reason}", retry_after_s=NO_CAPACITY_RETRY_S)
