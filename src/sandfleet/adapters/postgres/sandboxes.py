"""Sandboxes in PostgreSQL (port: `ports.stores.SandboxStore`)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    Interval,
    Select,
    bindparam,
    delete,
    exists,
    func,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from sandfleet.adapters.postgres import admission, rows, statements
from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.sealing import Sealer
from sandfleet.adapters.postgres.tables import operations, reservations, sandboxes, transitions
from sandfleet.adapters.postgres.terms import require_term
from sandfleet.model.errors import NotFound, QuotaExceeded, StaleVersion
from sandfleet.model.ids import OrganisationId, SandboxId, WorkerId
from sandfleet.model.operation import Operation
from sandfleet.model.sandbox import TERMINAL_STATES, Sandbox, SandboxState
from sandfleet.model.transition import Transition
from sandfleet.planning.repair import Presence
from sandfleet.ports.stores import SandboxFilter

_ADMISSIONS_AT_ONCE = 4
"""The organisation's row lock lets one through at a time; more would only hold connections."""
_TERMINAL = sorted(state.value for state in TERMINAL_STATES)


def _create_statement() -> Select[Any]:
    created = statements.insert_sandbox(None)
    return statements.count_of(
        created, statements.insert_operation(created), statements.insert_transition(created)
    )


def _save_statement(*, transition: bool) -> Select[Any]:
    held = statements.guard(sandbox=True)
    writes: list[CTE] = [statements.update_sandbox(held)]
    if transition:
        writes.append(statements.insert_transition(held))
    return statements.count_of(held, *writes)


def _kill_statement() -> Select[Any]:
    held = statements.guard(sandbox=True)
    return statements.count_of(
        held,
        statements.update_sandbox(held),
        statements.cancel_operations(held),
        statements.insert_operation(held),
        statements.insert_transition(held),
    )


_CREATE = _create_statement()
_SAVE = _save_statement(transition=False)
_SAVE_LOGGED = _save_statement(transition=True)
_KILL = _kill_statement()
_GET_ANY = select(sandboxes).where(sandboxes.c.id == bindparam("id"))
_GET = _GET_ANY.where(sandboxes.c.organisation_id == bindparam("organisation_id"))
_EXISTS = select(sandboxes.c.id).where(
    sandboxes.c.id == bindparam("id"), sandboxes.c.organisation_id == bindparam("organisation_id")
)
_COUNTS = select(sandboxes.c.state, func.count()).group_by(sandboxes.c.state)
_TOUCH = (
    update(sandboxes)
    .where(
        sandboxes.c.id == bindparam("sandbox"),
        sandboxes.c.state == SandboxState.RUNNING.value,
        # By less than that is not worth a write: the worker knows the idle time exactly.
        sandboxes.c.active_at
        < bindparam("at", type_=sandboxes.c.active_at.type) - text("interval '1 second'"),
    )
    .values(active_at=bindparam("at"))
)
_IDLE = (
    select(sandboxes)
    .where(
        sandboxes.c.state == SandboxState.RUNNING.value,
        sandboxes.c.timeout_s > 0,
        sandboxes.c.active_at + sandboxes.c.timeout_s * text("interval '1 second'") < func.now(),
    )
    .order_by(sandboxes.c.active_at)
    .limit(bindparam("limit"))
)
_ON_WORKER = select(sandboxes).where(
    or_(
        sandboxes.c.worker_id == bindparam("worker"),
        sandboxes.c.id.in_(
            select(reservations.c.sandbox_id).where(reservations.c.worker_id == bindparam("worker"))
        ),
    )
)
_HAS_RESERVATION = exists().where(
    reservations.c.sandbox_id == sandboxes.c.id, reservations.c.worker_id == bindparam("worker")
)
_HAS_OPERATION = exists().where(operations.c.sandbox_id == sandboxes.c.id, operations.c.state == "running")
_PRESENCE = select(
    sandboxes.c.id,
    sandboxes.c.state,
    sandboxes.c.epoch,
    _HAS_RESERVATION.label("has_reservation"),
    _HAS_OPERATION.label("has_open_operation"),
).where(or_(sandboxes.c.worker_id == bindparam("worker"), _HAS_RESERVATION))
_LOG = (
    select(transitions)
    .where(
        transitions.c.organisation_id == bindparam("organisation_id"),
        transitions.c.sandbox_id == bindparam("sandbox"),
    )
    .order_by(transitions.c.id.desc())
    .limit(bindparam("limit"))
)
_ENDED = (
    select(sandboxes.c.id)
    .where(
        sandboxes.c.state.in_(_TERMINAL),
        sandboxes.c.changed_at < func.now() - bindparam("kept", type_=Interval()),
        ~exists().where(reservations.c.sandbox_id == sandboxes.c.id),
        ~_HAS_OPERATION,
    )
    .limit(bindparam("limit"))
    .cte("ended")
)
_REMOVE_ENDED = (
    delete(sandboxes)
    .where(sandboxes.c.id.in_(select(_ENDED.c.id)))
    .add_cte(
        delete(operations)
        .where(operations.c.sandbox_id.in_(select(_ENDED.c.id)))
        .returning(operations.c.id)
        .cte("their_operations")
    )
)
_OLD_EVENTS = (
    select(transitions.c.id)
    .where(transitions.c.at < func.now() - bindparam("kept", type_=Interval()))
    .limit(bindparam("limit"))
)
_REMOVE_EVENTS = delete(transitions).where(transitions.c.id.in_(_OLD_EVENTS))


class PostgresSandboxStore:
    """Rows of sandboxes with their log."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer
        self._admissions = asyncio.Semaphore(_ADMISSIONS_AT_ONCE)

    async def create(self, sandbox: Sandbox, operation: Operation, transition: Transition) -> None:
        """Insert row, operation and log under the organisation's lock."""
        parameters = {
            **statements.new_sandbox_parameters(sandbox, self._sealer),
            **statements.new_operation_parameters(operation),
            **statements.transition_parameters(transition),
        }

        async def work(connection: AsyncConnection) -> None:
            quotas = await admission.lock_organisation(connection, sandbox.organisation_id)
            await admission.admit(connection, sandbox.organisation_id, quotas, sandbox.resources)
            await connection.execute(_CREATE, parameters)

        try:
            async with self._admissions:
                await self._database.transact(work)
        except (IntegrityError, QuotaExceeded):
            if not await self._exists(sandbox):
                raise

    async def start_operation(
        self, sandbox: Sandbox, operation: Operation, transition: Transition, *, term: int | None = None
    ) -> None:
        """Change the row and begin the operation in one statement."""
        parameters = {
            **statements.sandbox_parameters(sandbox),
            **statements.new_operation_parameters(operation),
            **statements.transition_parameters(transition),
        }
        if term is not None:
            parameters["term"] = term
        statement = statements.start_statement(term=term is not None)

        async def work(connection: AsyncConnection) -> None:
            if (await connection.execute(statement, parameters)).scalar_one() == 0:
                if term is not None:
                    await require_term(connection, term)
                raise _stale(sandbox)

        await self._database.statement(work)

    async def get(self, organisation_id: OrganisationId, sandbox_id: SandboxId) -> Sandbox:
        """Return the organisation's sandbox."""
        return await self._one(_GET, {"id": sandbox_id, "organisation_id": organisation_id})

    async def get_any(self, sandbox_id: SandboxId) -> Sandbox:
        """Return the sandbox for the fleet's own use."""
        return await self._one(_GET_ANY, {"id": sandbox_id})

    async def list(self, organisation_id: OrganisationId, where: SandboxFilter) -> Sequence[Sandbox]:
        """Return newest first."""
        query = select(sandboxes).where(sandboxes.c.organisation_id == organisation_id)
        if where.states is not None:
            query = query.where(sandboxes.c.state.in_(sorted(state.value for state in where.states)))
        if where.alias is not None:
            query = query.where(sandboxes.c.alias == where.alias)
        if where.cursor is not None:
            query = query.where(tuple_(sandboxes.c.created_at, sandboxes.c.id) < tuple_(*where.cursor))
        query = query.order_by(sandboxes.c.created_at.desc(), sandboxes.c.id.desc()).limit(where.limit)
        return await self._all(query, {})

    async def save(self, sandbox: Sandbox, transition: Transition | None) -> None:
        """Compare and set."""
        parameters = statements.sandbox_parameters(sandbox)
        statement = _SAVE
        if transition is not None:
            parameters.update(statements.transition_parameters(transition))
            statement = _SAVE_LOGGED
        await self._write(statement, parameters, sandbox)

    async def transitions(
        self, organisation_id: OrganisationId, sandbox_id: SandboxId, *, limit: int = 100
    ) -> Sequence[Transition]:
        """Return the log of one sandbox, newest first."""
        parameters = {"organisation_id": organisation_id, "sandbox": sandbox_id, "limit": limit}
        found = await self._database.statement(
            lambda connection: connection.execute(_LOG, parameters), repeatable=True
        )
        return [rows.transition_from(row) for row in found]

    async def kill(self, sandbox: Sandbox, destroy: Operation, transition: Transition) -> None:
        """Stop, cancel and begin to destroy, in one statement."""
        parameters = {
            **statements.sandbox_parameters(sandbox),
            **statements.new_operation_parameters(destroy),
            **statements.transition_parameters(transition),
        }
        await self._write(_KILL, parameters, sandbox)

    async def touch(self, active_at: Mapping[SandboxId, datetime]) -> None:
        """Move `active_at` forward."""
        if not active_at:
            return
        # In the order of ids, so that two touches of the same sandboxes do not deadlock.
        parameters = [{"sandbox": sandbox, "at": at} for sandbox, at in sorted(active_at.items())]
        await self._database.statement(
            lambda connection: connection.execute(_TOUCH, parameters), repeatable=True
        )

    async def idle_candidates(self, *, limit: int = 100) -> Sequence[Sandbox]:
        """Return those whose time has run out by the database's clock."""
        return await self._all(_IDLE, {"limit": limit})

    async def counts(self) -> Mapping[SandboxState, int]:
        """Return the number of sandboxes by state."""
        found = await self._database.statement(
            lambda connection: connection.execute(_COUNTS), repeatable=True
        )
        return {SandboxState(state): count for state, count in found}

    async def presence(self, worker_id: WorkerId) -> Sequence[Presence]:
        """Return what is expected on the worker."""
        found = await self._database.statement(
            lambda connection: connection.execute(_PRESENCE, {"worker": worker_id}), repeatable=True
        )
        return [
            Presence(
                sandbox_id=SandboxId(row.id),
                state=SandboxState(row.state),
                epoch=row.epoch,
                has_reservation=row.has_reservation,
                has_open_operation=row.has_open_operation,
            )
            for row in found
        ]

    async def on_worker(self, worker_id: WorkerId) -> Sequence[Sandbox]:
        """Return all that the worker has or holds room for."""
        return await self._all(_ON_WORKER, {"worker": worker_id})

    async def remove_old(self, *, stopped_for: timedelta, events_for: timedelta, limit: int = 1000) -> int:
        """Delete what has ended and what has been logged long ago."""

        async def work(connection: AsyncConnection) -> int:
            ended = await connection.execute(_REMOVE_ENDED, {"kept": stopped_for, "limit": limit})
            events = await connection.execute(_REMOVE_EVENTS, {"kept": events_for, "limit": limit})
            return ended.rowcount + events.rowcount

        return await self._database.statement(work, repeatable=True)

    async def _exists(self, sandbox: Sandbox) -> bool:
        identity = {"id": sandbox.id, "organisation_id": sandbox.organisation_id}
        found = await self._database.statement(
            lambda connection: connection.execute(_EXISTS, identity), repeatable=True
        )
        return found.first() is not None

    async def _one(self, statement: Select[Any], parameters: Mapping[str, Any]) -> Sandbox:
        found = await self._database.statement(
            lambda connection: connection.execute(statement, parameters), repeatable=True
        )
        row = found.first()
        if row is None:
            raise NotFound(f"sandbox {parameters['id']} not found")
        return rows.sandbox_from(row, self._sealer)

    async def _all(self, statement: Select[Any], parameters: Mapping[str, Any]) -> Sequence[Sandbox]:
        found = await self._database.statement(
            lambda connection: connection.execute(statement, parameters), repeatable=True
        )
        return [rows.sandbox_from(row, self._sealer) for row in found]

    async def _write(self, statement: Select[Any], parameters: Mapping[str, Any], sandbox: Sandbox) -> None:
        result = await self._database.statement(lambda connection: connection.execute(statement, parameters))
        if result.scalar_one() == 0:
            raise _stale(sandbox)


def _stale(sandbox: Sandbox) -> StaleVersion:
    return StaleVersion(f"sandbox {sandbox.id} has changed since version {sandbox.version - 1} was read")
