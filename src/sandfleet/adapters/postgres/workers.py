"""Workers in PostgreSQL (port: `ports.stores.WorkerStore`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    Interval,
    Text,
    bindparam,
    case,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from sandfleet.adapters.postgres import rows, statements
from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.fleet_log import tell
from sandfleet.adapters.postgres.forgetting import forget_worker
from sandfleet.adapters.postgres.placement import PLACEMENT_LOCKED, WORKERS
from sandfleet.adapters.postgres.rollout_tables import rollouts
from sandfleet.adapters.postgres.tables import launches, sandboxes, terms, transitions, workers
from sandfleet.adapters.postgres.terms import require_term
from sandfleet.model.errors import NotFound
from sandfleet.model.fleet_news import FleetNews
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.launch import LaunchState
from sandfleet.model.sandbox import TERMINAL_STATES
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.fencing import Ownership
from sandfleet.planning.rollout_state import RolloutStage
from sandfleet.ports.worker_store import NO_HEARTBEAT, Registration

_SAID = (
    "machine_id",
    "region",
    "http_url",
    "total_memory_mib",
    "total_cpu",
    "total_disk_mib",
    "templates",
    "worker_version",
    "accelerator",
    "cpu_model",
    "memory_used_mib",
    "cpu_percent",
    "disk_used_mib",
    "host_memory_mib",
    "host_cpus",
    "host_disk_mib",
    "ends_at",
    "ends_because",
    "instance_id",
    "sequence",
)
_GONE = WorkerState.GONE.value
_FROM = {
    WorkerState.SILENT: (WorkerState.READY.value,),
    WorkerState.UNREACHABLE: (WorkerState.READY.value, WorkerState.SILENT.value),
}
_TERMINAL = [state.value for state in TERMINAL_STATES]
_TERM = select(terms.c.number).where(terms.c.name == statements.LEADER).scalar_subquery()
_BEFORE = select(workers.c.id, workers.c.state).where(workers.c.id == bindparam("id")).cte("before")


def _register_statement() -> Any:
    machine = bindparam("machine_id", type_=Text())
    # Locked while it is undecided whether the machine comes: whoever gives the launch up sees this
    # heartbeat, or this heartbeat sees that it was given up.
    launch = (
        select(launches.c.ending_since)
        .where(
            or_(launches.c.machine_id == machine, launches.c.id == machine),
            or_(launches.c.state == LaunchState.PENDING.value, launches.c.ending_since.is_not(None)),
        )
        .with_for_update(read=True)
        .cte("launch")
    )
    is_ending = exists().where(launch.c.ending_since.is_not(None))
    said = bindparam("state", type_=Text())
    # A new worker of a version that is being tested takes nothing of anybody's.
    is_tested = exists().where(
        rollouts.c.version == bindparam("worker_version", type_=Text()),
        rollouts.c.stage == RolloutStage.BOOT_TEST.value,
    )
    new = insert(workers).values(
        {name: bindparam(name, type_=workers.c[name].type) for name in ("id", "version", *_SAID)}
        | {
            "state": case((is_ending, _GONE), else_=said),
            "cordoned": is_tested,
            "last_seen_at": func.now(),
        }
    )
    # One that was there before the end was decided holds sandboxes perhaps: it is taken off when it is empty.
    state = case((workers.c.state == _GONE, _GONE), else_=said)
    written = (
        new.on_conflict_do_update(
            index_elements=[workers.c.id],
            set_={name: new.excluded[name] for name in _SAID}
            | {
                "state": state,
                "version": workers.c.version + case((workers.c.state != state, 1), else_=0),
                "last_seen_at": func.now(),
            },
            where=(workers.c.instance_id != new.excluded.instance_id)
            | (workers.c.sequence < new.excluded.sequence),
        )
        .returning(workers.c.id, workers.c.state)
        .cte("written")
    )
    return select(written.c.state, _BEFORE.c.state.label("state_before"), _TERM.label("term")).select_from(
        written.outerjoin(_BEFORE, _BEFORE.c.id == written.c.id)
    )


def _log_change(changed: Any, *, event: str, actor: str, reason: Any) -> Any:
    """Return the insert of one log row for each worker in `changed` (id, state_before, state)."""
    columns = ["event", "actor", "reason", "at", "from_state", "to_state", "worker_id", "epoch", "detail"]
    return transitions.insert().from_select(
        columns,
        select(
            literal(event, Text()),
            literal(actor, Text()),
            reason,
            func.now(),
            changed.c.state_before,
            changed.c.state,
            changed.c.id,
            literal_column("0"),
            literal_column("'{}'::jsonb"),
        ).select_from(changed),
        include_defaults=False,
    )


def _absent_statement(state: WorkerState) -> Any:
    held = statements.guard(term=True)
    silent = (
        select(workers.c.id, workers.c.state.label("state_before"))
        .where(
            workers.c.state.in_(_FROM[state]),
            workers.c.last_seen_at < func.now() - bindparam("silent", type_=Interval()),
            exists(select(held)),
        )
        .with_for_update(key_share=True)
        .cte("silent_workers")
    )
    changed = (
        update(workers)
        .where(workers.c.id == silent.c.id)
        .values(state=state.value, version=workers.c.version + 1)
        .returning(*workers.c, silent.c.state_before)
        .cte("changed")
    )
    log = _log_change(
        changed,
        event=state.value,
        actor="liveness",
        reason=literal(NO_HEARTBEAT, Text()),
    )
    return select(changed).add_cte(log.returning(transitions.c.id).cte("log"))


_REGISTER = _register_statement()
_MARK_ABSENT = {state: _absent_statement(state) for state in _FROM}
_READ = select(workers, _TERM.label("term")).where(workers.c.id == bindparam("id"))
_OWNERS = select(sandboxes.c.id, sandboxes.c.epoch, sandboxes.c.worker_id, sandboxes.c.state).where(
    sandboxes.c.id.in_(bindparam("ids", expanding=True))
)
_HELD_TERM = statements.guard(term=True)
_QUARANTINE = (
    update(workers)
    .where(workers.c.id == bindparam("worker"), exists(select(_HELD_TERM)))
    .values(quarantined=bindparam("ids", type_=workers.c.quarantined.type))
    .returning(workers.c.id)
)


class PostgresWorkerStore:
    """What is known of each host."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def register(self, worker: Worker) -> Registration:
        """Write what the worker says; a late heartbeat changes nothing."""
        parameters = rows.worker_values(worker)

        async def work(connection: AsyncConnection) -> Registration:
            written = (await connection.execute(_REGISTER, parameters)).first()
            row = (await connection.execute(_READ, {"id": worker.id})).one()
            if written is not None and written.state_before != written.state:
                event = "registered" if written.state_before is None else "seen"
                news = FleetNews(event, "heartbeat", worker.id)
                await tell(
                    connection, news, actor=worker.id, before=written.state_before, after=written.state
                )
            return Registration(
                worker=rows.worker_from(row),
                term=row.term,
                quarantined=[SandboxId(sandbox) for sandbox in row.quarantined],
            )

        return await self._database.transact(work, repeatable=True)

    async def get(self, worker_id: WorkerId) -> Worker:
        """Return it."""
        found = await self._database.statement(
            lambda connection: connection.execute(WORKERS.where(workers.c.id == worker_id)), repeatable=True
        )
        row = found.first()
        if row is None:
            raise NotFound(f"worker {worker_id} not found")
        return rows.worker_from(row)

    async def list(self) -> Sequence[Worker]:
        """Return all."""
        found = await self._database.statement(
            lambda connection: connection.execute(WORKERS.order_by(workers.c.id)), repeatable=True
        )
        return [rows.worker_from(row) for row in found]

    async def owners(self, sandbox_ids: Sequence[SandboxId]) -> Mapping[SandboxId, Ownership]:
        """Return the owners of those that have a row."""
        found = await self._database.statement(
            lambda connection: connection.execute(_OWNERS, {"ids": list(sandbox_ids)}), repeatable=True
        )
        return {
            SandboxId(row.id): Ownership(row.epoch, row.worker_id, row.state in _TERMINAL) for row in found
        }

    async def mark_absent(self, state: WorkerState, *, silent_for: timedelta, term: int) -> Sequence[Worker]:
        """Move those that have been silent so long."""

        async def work(connection: AsyncConnection) -> Sequence[Worker]:
            parameters = {"silent": silent_for, "term": term}
            found = (await connection.execute(_MARK_ABSENT[state], parameters)).all()
            if not found:
                await require_term(connection, term)
            return [rows.worker_from(row) for row in found]

        return await self._database.statement(work, repeatable=True)

    async def forget(self, worker_id: WorkerId, *, is_lost: bool, actor: str) -> Worker:
        """Move it to `gone` if nothing depends on it, or on somebody's word."""

        async def work(connection: AsyncConnection) -> None:
            # Under the lock of placements, so that nothing is placed on it between look and change.
            await connection.execute(PLACEMENT_LOCKED)
            await forget_worker(connection, worker_id, is_lost=is_lost, actor=actor)

        await self._database.transact(work, repeatable=True)
        return await self.get(worker_id)

    async def set_quarantined(
        self, worker_id: WorkerId, sandbox_ids: Sequence[SandboxId], *, term: int
    ) -> None:
        """Replace the list."""

        async def work(connection: AsyncConnection) -> None:
            parameters = {"worker": worker_id, "ids": list(sandbox_ids), "term": term}
            if (await connection.execute(_QUARANTINE, parameters)).first() is None:
                await require_term(connection, term)

        await self._database.statement(work, repeatable=True)
