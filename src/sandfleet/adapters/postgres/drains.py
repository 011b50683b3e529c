"""Drains in PostgreSQL (port: `ports.drain_store.DrainStore`)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Double,
    Row,
    Text,
    bindparam,
    case,
    delete,
    exists,
    func,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from sandfleet.adapters.postgres import statements
from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.fleet_log import tell
from sandfleet.adapters.postgres.placement import PLACEMENT_LOCKED
from sandfleet.adapters.postgres.tables import drains, workers
from sandfleet.adapters.postgres.terms import require_term
from sandfleet.model.drain import ASKED_FOR, Drain, DrainOwner, DrainState, DrainTerms, Stay
from sandfleet.model.errors import NotFound
from sandfleet.model.fleet_news import FleetNews
from sandfleet.model.ids import WorkerId
from sandfleet.model.worker import WorkerState

_DEADLINE_S: BindParameter[float] = bindparam("deadline_s", type_=Double())
_OF = drains.c.worker_id == bindparam("worker")
_READ = select(drains).where(_OF)
_STATE = select(workers.c.state).where(
    workers.c.id == bindparam("worker"), workers.c.state != WorkerState.GONE.value
)
_LIST = (
    select(drains)
    .join(workers, workers.c.id == drains.c.worker_id)
    .where(workers.c.state != WorkerState.GONE.value)
    .order_by(drains.c.worker_id)
)
_BEGIN = drains.insert().values(
    worker_id=bindparam("worker"),
    actor=bindparam("actor"),
    begun_at=func.now(),
    state=DrainState.DRAINING.value,
    moved=0,
    slept=0,
    stays=[],
    owner=bindparam("owner"),
    reason=bindparam("reason"),
    deadline_at=statements.in_seconds(_DEADLINE_S),
    hibernates=bindparam("hibernates", type_=drains.c.hibernates.type),
)
_TAKE_OVER = (
    update(drains)
    .where(_OF)
    .values(
        actor=bindparam("new_actor"),
        owner=bindparam("new_owner"),
        reason=bindparam("new_reason"),
        deadline_at=statements.in_seconds(_DEADLINE_S),
        hibernates=bindparam("new_hibernates", type_=drains.c.hibernates.type),
    )
)
_END = delete(drains).where(_OF)
_MARK = (
    update(workers)
    .where(workers.c.id == bindparam("worker"))
    .values(draining=bindparam("is_draining"), version=workers.c.version + 1)
)
_HELD = statements.guard(term=True)
_new_state: BindParameter[str] = bindparam("new_state", type_=Text())


def _since(state: DrainState, before: Column[datetime | None]) -> ColumnElement[datetime | None]:
    """Return when it became so: now, if it was not so before."""
    return case((_new_state == state.value, func.coalesce(before, func.now())), else_=None)


_SAVE = (
    update(drains)
    .where(_OF, drains.c.begun_at == bindparam("begun"), exists(select(_HELD)))
    .values(
        state=_new_state,
        moved=bindparam("new_moved"),
        slept=bindparam("new_slept"),
        stays=bindparam("new_stays", type_=drains.c.stays.type),
        drained_at=_since(DrainState.DRAINED, drains.c.drained_at),
        stuck_at=_since(DrainState.STUCK, drains.c.stuck_at),
    )
    .returning(
        (func.coalesce(drains.c.drained_at, drains.c.stuck_at) == func.now()).label("is_news"),
    )
)


class PostgresDrainStore:
    """The drains that have not been undone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, worker_id: WorkerId, *, actor: str, terms: DrainTerms | None = None) -> Drain:
        """Write it down, under the lock of placements: none is decided on the view of before."""

        async def work(connection: AsyncConnection) -> Drain:
            await connection.execute(PLACEMENT_LOCKED)
            await begin_drain(connection, worker_id, owner=DrainOwner.OPERATOR, actor=actor, terms=terms)
            return drain_from((await connection.execute(_READ, {"worker": worker_id})).one())

        return await self._database.transact(work, repeatable=True)

    async def end(self, worker_id: WorkerId, *, actor: str) -> bool:
        """Take it back."""

        async def work(connection: AsyncConnection) -> bool:
            await connection.execute(PLACEMENT_LOCKED)
            return await end_drain(connection, worker_id, actor=actor, reason=ASKED_FOR)

        return await self._database.transact(work, repeatable=True)

    async def get(self, worker_id: WorkerId) -> Drain | None:
        """Return it."""
        found = await self._database.statement(
            lambda connection: connection.execute(_READ, {"worker": worker_id}), repeatable=True
        )
        row = found.first()
        return None if row is None else drain_from(row)

    async def list(self) -> Sequence[Drain]:
        """Return those of workers that are not gone."""
        found = await self._database.statement(lambda connection: connection.execute(_LIST), repeatable=True)
        return [drain_from(row) for row in found]

    async def save(self, drain: Drain, *, term: int) -> bool:
        """Write down what was seen, in the leader's term."""
        parameters = {
            "worker": drain.worker_id,
            "begun": drain.begun_at,
            "new_state": drain.state.value,
            "new_moved": drain.moved,
            "new_slept": drain.slept,
            "new_stays": msgspec.to_builtins(list(drain.stays)),
            "term": term,
        }

        async def work(connection: AsyncConnection) -> bool:
            written = (await connection.execute(_SAVE, parameters)).first()
            if written is None:
                await require_term(connection, term)
                return False
            if written.is_news:
                event, reason = drain.news
                await tell(connection, FleetNews(event, reason, drain.worker_id), actor="drain")
            return True

        return await self._database.transact(work, repeatable=True)


async def begin_drain(
    connection: AsyncConnection,
    worker_id: WorkerId,
    *,
    owner: DrainOwner,
    actor: str,
    terms: DrainTerms | None,
) -> DrainOwner:
    """Write it down, or take over what a loop has begun; return whose it is. NotFound.

    The caller holds the lock of placements.
    """
    state = await _require_known(connection, worker_id)
    agreed = terms or DrainTerms()
    named = {"owner": owner.value, "actor": actor, "reason": agreed.reason, "hibernates": agreed.hibernates}
    which = {"worker": worker_id, "deadline_s": agreed.deadline_s}
    row = (await connection.execute(_READ, {"worker": worker_id})).first()
    before = None if row is None else DrainOwner(row.owner)
    if before is None:
        await connection.execute(_BEGIN, {**which, **named})
        await connection.execute(_MARK, {"worker": worker_id, "is_draining": True})
    elif owner.takes_over(before) or (owner.may_renew and owner is before and terms is not None):
        changed = {f"new_{name}": value for name, value in named.items()}
        await connection.execute(_TAKE_OVER, {**which, **changed})
    else:
        return before
    news = FleetNews("drain_requested", agreed.reason, worker_id)
    await tell(connection, news, actor=actor, before=state, after=state)
    return owner


async def end_drain(
    connection: AsyncConnection,
    worker_id: WorkerId,
    *,
    actor: str,
    reason: str,
    owner: DrainOwner | None = None,
) -> bool:
    """Take it back, if it is `owner`'s; false when there is none such. NotFound.

    The caller holds the lock of placements.
    """
    state = await _require_known(connection, worker_id)
    ending = _END if owner is None else _END.where(drains.c.owner == owner.value)
    if (await connection.execute(ending, {"worker": worker_id})).rowcount == 0:
        return False
    await connection.execute(_MARK, {"worker": worker_id, "is_draining": False})
    news = FleetNews("drain_undone", reason, worker_id)
    await tell(connection, news, actor=actor, before=state, after=state)
    return True


async def _require_known(connection: AsyncConnection, worker_id: WorkerId) -> str:
    state = (await connection.execute(_STATE, {"worker": worker_id})).scalar_one_or_none()
    if state is None:
        raise NotFound(f"worker {worker_id} not found")
    return str(state)


def drain_from(row: Row[Any]) -> Drain:
    """Return the drain of a row."""
    return Drain(
        worker_id=WorkerId(row.worker_id),
        actor=row.actor,
        begun_at=row.begun_at,
        state=DrainState(row.state),
        drained_at=row.drained_at,
        moved=row.moved,
        stays=tuple(msgspec.convert(row.stays, list[Stay])),
        owner=DrainOwner(row.owner),
        reason=row.reason,
        deadline_at=row.deadline_at,
        hibernates=row.hibernates,
        slept=row.slept,
        stuck_at=row.stuck_at,
    )
