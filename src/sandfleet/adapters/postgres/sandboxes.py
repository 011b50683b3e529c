"""Sandboxes in PostgreSQL (port: `ports.stores.SandboxStore`)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    Select,
    bindparam,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from sandfleet.adapters.postgres import admission, old_rows, rows, saved_rows, statements
from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.operation_statements import start_statement
from sandfleet.adapters.postgres.presence import ON_WORKER, PRESENCE
from sandfleet.adapters.postgres.reading import Query
from sandfleet.adapters.postgres.sandbox_reads import SandboxReads, SandboxRows, list_query
from sandfleet.adapters.postgres.sealing import Sealer
from sandfleet.adapters.postgres.tables import (
    checkpoints,
    sandboxes,
    transitions,
)
from sandfleet.adapters.postgres.terms import require_term
from sandfleet.model.checkpoint import Checkpoint
from sandfleet.model.errors import Conflict, NotFound, QuotaExceeded, StaleVersion
from sandfleet.model.ids import OrganisationId, SandboxId, WorkerId
from sandfleet.model.operation import Operation
from sandfleet.model.sandbox import SERVED_STATES, Sandbox, SandboxState
from sandfleet.model.snapshot import Snapshot
from sandfleet.model.transition import Transition
from sandfleet.planning.repair import Presence
from sandfleet.ports.stores import SandboxFilter

_ADMISSIONS_AT_ONCE = 4
"""The organisation's row lock lets one through at a time; more would only hold connections."""


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
_GET_ANY = Query(select(sandboxes).where(sandboxes.c.id == bindparam("id")))
_HOLD_CHECKPOINT = (
    select(checkpoints.c.id)
    .where(checkpoints.c.id == bindparam("id"), checkpoints.c.snapshot_id == bindparam("snapshot"))
    .with_for_update(read=True, key_share=True)
)
_EXISTS = select(sandboxes.c.id).where(
    sandboxes.c.id == bindparam("id"), sandboxes.c.organisation_id == bindparam("organisation_id")
)
_COUNTS = select(sandboxes.c.state, func.count()).group_by(sandboxes.c.state)
_SERVED = sorted(state.value for state in SERVED_STATES)
_TOUCH = (
    update(sandboxes)
    .where(
        sandboxes.c.id == bindparam("sandbox"),
        or_(*[sandboxes.c.state == state for state in _SERVED]),  # a list is not allowed with many rows
        # By less than that is not worth a write: the worker knows the idle time exactly.
        sandboxes.c.active_at
        < bindparam("at", type_=sandboxes.c.active_at.type) - text("interval '1 second'"),
    )
    .values(active_at=bindparam("at"))
)
_IDLE = Query(
    select(sandboxes)
    .where(
        sandboxes.c.state == SandboxState.RUNNING.value,
        sandboxes.c.timeout_s > 0,
        sandboxes.c.active_at + sandboxes.c.timeout_s * text("interval '1 second'") < func.now(),
    )
    .order_by(sandboxes.c.active_at)
    .limit(bindparam("limit"))
)
_ROW_MAX = 2**63 - 1
_LOG = (
    select(transitions)
    .where(
        transitions.c.organisation_id == bindparam("organisation_id"),
        transitions.c.sandbox_id == bindparam("sandbox"),
        transitions.c.id < bindparam("before"),
    )
    .order_by(transitions.c.id.desc())
    .limit(bindparam("limit"))
)


class PostgresSandboxStore:
    """Rows of sandboxes with their log."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer
        self._admissions = asyncio.Semaphore(_ADMISSIONS_AT_ONCE)
        self._reads = SandboxReads(database)
        self._rows = SandboxRows(sealer)

    async def create(self, sandbox: Sandbox, operation: Operation, transition: Transition) -> bool:
        """Insert row, operation and log under the organisation's lock; False if the row is there."""
        parameters = self._create_parameters(sandbox, operation, transition)

        async def work(connection: AsyncConnection) -> None:
            if sandbox.from_checkpoint_id is not None:
                await _hold_checkpoint(connection, sandbox)
            await _admit(connection, sandbox)
            await connection.execute(_CREATE, parameters)

        try:
            async with self._admissions:
                await self._database.transact(work)
        except (IntegrityError, QuotaExceeded, NotFound):
            if not await self._exists(sandbox):
                raise
            return False
        return True

    async def start_fork(
        self,
        sandbox: Sandbox,
        operation: Operation,
        transition: Transition,
        *,
        snapshot: Snapshot,
        created: Sequence[tuple[Sandbox, Operation, Transition]],
        is_partial: bool,
    ) -> int:
        """Begin the fork and insert the sandboxes, as many as the quotas let in."""
        parameters = {
            **statements.sandbox_parameters(sandbox),
            **statements.new_operation_parameters(operation),
            **statements.transition_parameters(transition),
            **saved_rows.snapshot_parameters(snapshot),
        }
        start = start_statement(term=False, snapshot=True)

        async def work(connection: AsyncConnection) -> int:
            quotas = await admission.lock_organisation(connection, sandbox.organisation_id)
            if (await connection.execute(start, parameters)).scalar_one() == 0:
                raise _stale(sandbox)
            for number, (row, create, log) in enumerate(created):
                try:
                    await admission.admit(connection, row.organisation_id, quotas, row.resources)
                except QuotaExceeded:
                    if not is_partial or number == 0:
                        raise
                    return number
                await connection.execute(_CREATE, self._create_parameters(row, create, log))
            return len(created)

        async with self._admissions:
            return await self._database.transact(work)

    async def start_operation(  # noqa: PLR0913 -- one argument for each part of a beginning
        self,
        sandbox: Sandbox,
        operation: Operation,
        transition: Transition,
        *,
        term: int | None = None,
        admits: bool = False,
        snapshot: Snapshot | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Change the row and begin the operation in one statement."""
        parameters = {
            **statements.sandbox_parameters(sandbox),
            **statements.new_operation_parameters(operation),
            **statements.transition_parameters(transition),
        }
        if term is not None:
            parameters["term"] = term
        if snapshot is not None:
            parameters.update(saved_rows.snapshot_parameters(snapshot))
        if checkpoint is not None:
            parameters.update(saved_rows.checkpoint_parameters(checkpoint, self._sealer))
        statement = start_statement(
            term=term is not None, snapshot=snapshot is not None, checkpoint=checkpoint is not None
        )

        async def work(connection: AsyncConnection) -> None:
            if admits:
                await _admit(connection, sandbox)
            if (await connection.execute(statement, parameters)).scalar_one() == 0:
                if term is not None:
                    await require_term(connection, term)
                raise _stale(sandbox)

        run = self._database.transact if admits else self._database.statement
        try:
            await run(work)
        except IntegrityError as error:
            if checkpoint is None:
                raise
            raise Conflict(f'the sandbox has a checkpoint "{checkpoint.name}"', code="name_taken") from error

    async def get(self, organisation_id: OrganisationId, sandbox_id: SandboxId) -> Sandbox:
        """Return the organisation's sandbox."""
        row = await self._reads.find(organisation_id, sandbox_id)
        if row is None:
            raise _unknown(sandbox_id)
        return self._rows.sandbox(row)

    async def get_any(self, sandbox_id: SandboxId) -> Sandbox:
        """Return the sandbox for the fleet's own use."""
        for sandbox in await self._all(_GET_ANY, {"id": sandbox_id}):
            return sandbox
        raise _unknown(sandbox_id)

    async def list(self, organisation_id: OrganisationId, where: SandboxFilter) -> Sequence[Sandbox]:
        """Return newest first."""
        return await self._all(*list_query(organisation_id, where))

    async def save(self, sandbox: Sandbox, transition: Transition | None) -> None:
        """Compare and set."""
        parameters = statements.sandbox_parameters(sandbox)
        statement = _SAVE
        if transition is not None:
            parameters.update(statements.transition_parameters(transition))
            statement = _SAVE_LOGGED
        await self._write(statement, parameters, sandbox)

    async def transitions(
        self,
        organisation_id: OrganisationId,
        sandbox_id: SandboxId,
        *,
        limit: int = 100,
        before: int | None = None,
    ) -> Sequence[Transition]:
        """Return the log of one sandbox, newest first."""
        parameters = {
            "organisation_id": organisation_id,
            "sandbox": sandbox_id,
            "limit": limit,
            "before": _ROW_MAX if before is None else before,
        }
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
            lambda connection: connection.execute(PRESENCE, {"worker": worker_id}), repeatable=True
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
        return await self._all(ON_WORKER, {"worker": worker_id})

    async def remove_old(self, *, stopped_for: timedelta, events_for: timedelta, limit: int = 1000) -> int:
        """Delete what has ended and what has been logged long ago."""

        return await self._database.statement(
            lambda connection: old_rows.remove(
                connection, stopped_for=stopped_for, events_for=events_for, limit=limit
            ),
            repeatable=True,
        )

    def _create_parameters(
        self, sandbox: Sandbox, operation: Operation, transition: Transition
    ) -> statements.Parameters:
        return {
            **statements.new_sandbox_parameters(sandbox, self._sealer),
            **statements.new_operation_parameters(operation),
            **statements.transition_parameters(transition),
        }

    async def _exists(self, sandbox: Sandbox) -> bool:
        identity = {"id": sandbox.id, "organisation_id": sandbox.organisation_id}
        found = await self._database.statement(
            lambda connection: connection.execute(_EXISTS, identity), repeatable=True
        )
        return found.first() is not None

    async def _all(self, query: Query, parameters: Mapping[str, Any]) -> Sequence[Sandbox]:
        return [self._rows.sandbox(row) for row in await self._database.read(query, parameters)]

    async def _write(self, statement: Select[Any], parameters: Mapping[str, Any], sandbox: Sandbox) -> None:
        result = await self._database.statement(lambda connection: connection.execute(statement, parameters))
        if result.scalar_one() == 0:
            raise _stale(sandbox)


async def _admit(connection: AsyncConnection, sandbox: Sandbox) -> None:
    quotas = await admission.lock_organisation(connection, sandbox.organisation_id)
    await admission.admit(connection, sandbox.organisation_id, quotas, sandbox.resources)


async def _hold_checkpoint(connection: AsyncConnection, sandbox: Sandbox) -> None:
    """Keep the checkpoint from being deleted until the row that needs its snapshot is there."""
    parameters = {"id": sandbox.from_checkpoint_id, "snapshot": sandbox.snapshot_id}
    if (await connection.execute(_HOLD_CHECKPOINT, parameters)).first() is None:
        raise NotFound("checkpoint not found")


def _unknown(sandbox_id: SandboxId) -> NotFound:
    return NotFound(f"sandbox {sandbox_id} not found")


def _stale(sandbox: Sandbox) -> StaleVersion:
    return StaleVersion(f"sandbox {sandbox.id} has changed since version {sandbox.version - 1} was read")
