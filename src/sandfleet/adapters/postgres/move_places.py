"""The places of moving sandboxes in PostgreSQL (port: `ports.move_store.MoveStore`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import CTE, BindParameter, Select, bindparam, delete, exists, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from sandfleet.adapters.postgres import admission, statements
from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.operation_statements import start_statement
from sandfleet.adapters.postgres.placement import PLACEMENT_LOCK, raise_stale, read_view
from sandfleet.adapters.postgres.tables import reservations, second_places
from sandfleet.adapters.postgres.terms import require_term
from sandfleet.model.errors import Conflict, StaleVersion
from sandfleet.model.ids import WorkerId
from sandfleet.model.operation import Operation
from sandfleet.model.organisation import Quotas
from sandfleet.model.resources import Resources
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.transition import Transition
from sandfleet.planning.placement import FleetView, NoPlacement
from sandfleet.ports.move_store import MoveBeginning, MoveDecision

_LOCK = text("SELECT pg_advisory_xact_lock(:key)").bindparams(key=PLACEMENT_LOCK)
_OF_THE_SANDBOX: BindParameter[str] = bindparam("sandbox")
_IS_MOVING = select(second_places.c.move_id).where(second_places.c.sandbox_id == _OF_THE_SANDBOX)
_RESERVED = select(reservations.c.memory_mib).where(
    reservations.c.sandbox_id == _OF_THE_SANDBOX, reservations.c.worker_id == bindparam("worker")
)


def _moved_place(held: CTE, table: Any, worker: str, other: Any) -> CTE:
    """Give the place to that worker, with the amount of the other place as it was before the statement."""
    amount = select(other.c.memory_mib).where(other.c.sandbox_id == bindparam("p_sandbox"))
    return (
        update(table)
        .where(table.c.sandbox_id == bindparam("p_sandbox"), exists(select(held)))
        .values(worker_id=bindparam(worker), memory_mib=amount.scalar_subquery())
        .returning(table.c.sandbox_id)
        .cte(f"moved_{table.name}")
    )


def _commit_statement() -> Select[Any]:
    held = statements.guard(sandbox=True, operation=True)
    return statements.count_of(
        held,
        statements.update_sandbox(held),
        statements.update_operation(held),
        statements.insert_transition(held),
        _moved_place(held, reservations, "p_target", second_places),
        _moved_place(held, second_places, "p_source", reservations),
    )


def _release_statement() -> Select[Any]:
    held = statements.guard(operation=True)
    given_back = (
        delete(second_places)
        .where(
            second_places.c.sandbox_id == bindparam("p_sandbox"),
            second_places.c.move_id == bindparam("p_move"),
            exists(select(held)),
        )
        .returning(second_places.c.sandbox_id)
        .cte("given_back")
    )
    return statements.count_of(held, statements.update_operation(held), given_back)


_COMMIT = _commit_statement()
_RELEASE = _release_statement()


class PostgresMoveStore:
    """Two places for a sandbox that moves, and one owner."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(
        self,
        sandbox: Sandbox,
        decide: MoveDecision,
        *,
        term: int | None = None,
    ) -> MoveBeginning | NoPlacement:
        """Decide and write, in one transaction."""
        where = {"sandbox": sandbox.id, "worker": sandbox.worker_id}

        async def work(connection: AsyncConnection) -> MoveBeginning | NoPlacement:
            quotas = await admission.lock_organisation(connection, sandbox.organisation_id)
            await connection.execute(_LOCK)
            reserved = (await connection.execute(_RESERVED, where)).scalar_one_or_none()
            if reserved is None:
                raise StaleVersion(f"sandbox {sandbox.id} is on its worker no longer")
            if (await connection.execute(_IS_MOVING, {"sandbox": sandbox.id})).first() is not None:
                raise Conflict("an earlier move is not cleared away yet", code="operation_in_progress")
            fleet, _ = await read_view(connection)
            beginning = decide(FleetView(fleet), int(reserved))
            if isinstance(beginning, NoPlacement):
                return beginning
            memory_mib = max(sandbox.resources.memory_mib, int(reserved), beginning.memory_mib)
            await _admit(connection, sandbox, quotas, memory_mib - int(reserved))
            parameters = {
                **statements.sandbox_parameters(sandbox),
                **statements.new_operation_parameters(beginning.operation),
                **statements.transition_parameters(beginning.transition),
            }
            if term is not None:
                parameters["term"] = term
            begun = await connection.execute(start_statement(term=term is not None), parameters)
            if begun.scalar_one() == 0:
                if term is not None:
                    await require_term(connection, term)
                raise StaleVersion(f"sandbox {sandbox.id} has changed meanwhile")
            place = {
                "sandbox_id": sandbox.id,
                "worker_id": beginning.target,
                "move_id": beginning.operation.id,
                "memory_mib": memory_mib,
                "cpu_count": sandbox.resources.cpu_count,
                "disk_mib": sandbox.resources.disk_mib,
            }
            await connection.execute(second_places.insert(), place)
            return beginning

        return await self._database.transact(work)

    async def commit(
        self, operation: Operation, sandbox: Sandbox, transition: Transition, *, source: WorkerId
    ) -> None:
        """Exchange both places with the row's change."""
        parameters = {
            **statements.sandbox_parameters(sandbox),
            **statements.operation_parameters(operation),
            **statements.transition_parameters(transition),
            "p_sandbox": sandbox.id,
            "p_target": sandbox.worker_id,
            "p_source": source,
        }

        async def work(connection: AsyncConnection) -> None:
            if (await connection.execute(_COMMIT, parameters)).scalar_one() == 0:
                await raise_stale(connection, operation, sandbox)

        await self._database.statement(work)

    async def release(self, operation: Operation) -> None:
        """End it and remove the place, in one statement."""
        parameters = {
            **statements.operation_parameters(operation),
            "p_sandbox": operation.sandbox_id,
            "p_move": operation.arguments["move_id"],
        }

        async def work(connection: AsyncConnection) -> None:
            if (await connection.execute(_RELEASE, parameters)).scalar_one() == 0:
                await raise_stale(connection, operation, None)

        await self._database.statement(work)


async def _admit(connection: AsyncConnection, sandbox: Sandbox, quotas: Quotas, extra_mib: int) -> None:
    if extra_mib > 0:
        more = Resources(memory_mib=extra_mib, cpu_count=0, disk_mib=0)
        await admission.admit(connection, sandbox.organisation_id, replace(quotas, sandboxes=None), more)
