"""Launches and the states of the planners in PostgreSQL (port: `ports.fleet_store.FleetStore`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Interval, bindparam, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from sandfleet.adapters.postgres import statements
from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.fleet_commands import (
    end_orphan,
    give_up,
    launch_from,
    lose,
    record_command,
    take_off,
)
from sandfleet.adapters.postgres.fleet_log import tell
from sandfleet.adapters.postgres.placement import PLACEMENT_LOCKED
from sandfleet.adapters.postgres.rollouts import record_rollout
from sandfleet.adapters.postgres.tables import launches, planner_states
from sandfleet.adapters.postgres.terms import require_term
from sandfleet.model.fleet_news import FleetNews
from sandfleet.model.ids import WorkerId
from sandfleet.model.launch import Launch, LaunchFailure, LaunchId, LaunchState
from sandfleet.model.machine import Machine
from sandfleet.planning.capacity_memory import CapacityMemory
from sandfleet.ports.fleet_store import (
    ENDED_LAUNCHES_KEPT,
    MACHINES,
    POOL_SAID_GONE,
    FleetDecision,
    LeftOut,
    joined_news,
    launch_news,
)

_CAPACITY = "capacity"
_PENDING = LaunchState.PENDING.value
_HOLD_TERM = select(statements.guard(term=True))
_STATE = select(planner_states.c.value).where(planner_states.c.name == bindparam("name"))
_NEW_STATE = insert(planner_states).values(
    name=bindparam("name"), value=bindparam("value"), changed_at=func.now()
)
_WRITE_STATE = _NEW_STATE.on_conflict_do_update(
    index_elements=[planner_states.c.name],
    set_={"value": _NEW_STATE.excluded.value, "changed_at": func.now()},
)
_OPEN = or_(launches.c.state == _PENDING, launches.c.gone_at.is_(None))
_NEWEST_ENDED = select(launches.c.id).where(~_OPEN).order_by(launches.c.id.desc()).limit(ENDED_LAUNCHES_KEPT)
_LIST = select(launches).where(or_(_OPEN, launches.c.id.in_(_NEWEST_ENDED))).order_by(launches.c.id)
_OF = launches.c.id == bindparam("launch")
_NAME = update(launches).where(_OF).values(machine_id=bindparam("new_machine"))
_JOIN = (
    update(launches)
    .where(_OF, launches.c.state == _PENDING)
    .values(state=LaunchState.JOINED.value, ended_at=func.now(), worker_id=bindparam("new_worker"))
    .returning(launches)
)
_ENDING = select(launches).where(_OF, launches.c.ending_since.is_not(None)).with_for_update()
_LET_GO = update(launches).where(_OF).values(gone_at=func.now())
_OLD = (
    select(launches.c.id)
    .where(launches.c.gone_at < func.now() - bindparam("kept", type_=Interval()))
    .limit(bindparam("limit"))
)
_REMOVE_OLD = delete(launches).where(launches.c.id.in_(_OLD))


class PostgresFleetStore:
    """What was decided about machines."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def memory(self) -> CapacityMemory:
        """Return what the capacity planner remembers."""
        value = await self._state(_CAPACITY)
        return CapacityMemory() if value is None else CapacityMemory.from_json(value)

    async def launches(self) -> Sequence[Launch]:
        """Return the open ones and the newest of the others."""
        found = await self._database.statement(lambda connection: connection.execute(_LIST), repeatable=True)
        return [launch_from(row) for row in found]

    async def record(self, decision: FleetDecision, *, term: int) -> Sequence[LeftOut]:
        """Write it down, under the lock of placements: none is decided on the view of before."""

        async def work(connection: AsyncConnection) -> Sequence[LeftOut]:
            await connection.execute(PLACEMENT_LOCKED)
            await _hold_term(connection, term)
            if decision.memory is not None:
                written = {"name": _CAPACITY, "value": decision.memory.to_json()}
                await connection.execute(_WRITE_STATE, written)
            if decision.rollout is not None:
                await record_rollout(connection, decision.rollout, actor=decision.by.value)
            for news in decision.news:
                await tell(connection, news, actor=decision.by.value)
            left_out = []
            for command in decision.commands:
                because = await record_command(connection, command, by=decision.by)
                if because is not None:
                    left_out.append(LeftOut(command, because))
            return left_out

        return await self._database.transact(work, repeatable=True)

    async def name_machine(self, launch_id: LaunchId, machine_id: str, *, term: int) -> bool:
        """Note what the pool calls it."""

        async def work(connection: AsyncConnection) -> bool:
            await _hold_term(connection, term)
            named = {"launch": launch_id, "new_machine": machine_id}
            return (await connection.execute(_NAME, named)).rowcount == 1

        return await self._database.transact(work, repeatable=True)

    async def join(self, launch_id: LaunchId, worker_id: WorkerId, *, term: int) -> bool:
        """Note who has joined."""

        async def work(connection: AsyncConnection) -> bool:
            await _hold_term(connection, term)
            joined = {"launch": launch_id, "new_worker": worker_id}
            row = (await connection.execute(_JOIN, joined)).first()
            if row is not None:
                news = joined_news(launch_from(row), worker_id, at=row.ended_at)
                await tell(connection, news, actor=MACHINES)
            return row is not None

        return await self._database.transact(work, repeatable=True)

    async def fail(self, launch_id: LaunchId, why: LaunchFailure, *, said: str, term: int) -> bool:
        """Give it up."""

        async def work(connection: AsyncConnection) -> bool:
            await connection.execute(PLACEMENT_LOCKED)
            await _hold_term(connection, term)
            return await give_up(connection, launch_id, why, said=said, actor=MACHINES) is None

        return await self._database.transact(work, repeatable=True)

    async def take_off(self, launch_id: LaunchId, *, term: int) -> bool:
        """Take the worker of its machine off the fleet if it is empty."""

        async def work(connection: AsyncConnection) -> bool:
            await connection.execute(PLACEMENT_LOCKED)
            await _hold_term(connection, term)
            return await take_off(connection, launch_id)

        return await self._database.transact(work, repeatable=True)

    async def let_go(self, launch_id: LaunchId, *, term: int) -> bool:
        """Note that its machine is gone."""

        async def work(connection: AsyncConnection) -> bool:
            await _hold_term(connection, term)
            row = (await connection.execute(_ENDING, {"launch": launch_id})).first()
            if row is not None and row.gone_at is None:
                await connection.execute(_LET_GO, {"launch": launch_id})
                news = launch_news("machine_gone", launch_from(row), POOL_SAID_GONE)
                await tell(connection, news, actor=MACHINES)
            return row is not None

        return await self._database.transact(work, repeatable=True)

    async def lose(self, worker_id: WorkerId, *, because: str, term: int) -> bool:
        """Take it off the fleet by its pool's word."""

        async def work(connection: AsyncConnection) -> bool:
            await connection.execute(PLACEMENT_LOCKED)
            await _hold_term(connection, term)
            return await lose(connection, worker_id, because=because)

        return await self._database.transact(work, repeatable=True)

    async def end_orphan(self, machine: Machine, *, pool: str, term: int) -> bool:
        """Have a launch that ends it."""

        async def work(connection: AsyncConnection) -> bool:
            await connection.execute(PLACEMENT_LOCKED)
            await _hold_term(connection, term)
            return await end_orphan(connection, machine, pool=pool)

        return await self._database.transact(work, repeatable=True)

    async def tell(self, news: Sequence[FleetNews], *, actor: str, term: int) -> None:
        """Have the log tell it."""

        async def work(connection: AsyncConnection) -> None:
            await _hold_term(connection, term)
            for one in news:
                await tell(connection, one, actor=actor)

        await self._database.transact(work, repeatable=True)

    async def remove_old(self, *, gone_for: timedelta, limit: int = 1000) -> int:
        """Delete those whose machines are long gone."""
        parameters = {"kept": gone_for, "limit": limit}
        found = await self._database.statement(
            lambda connection: connection.execute(_REMOVE_OLD, parameters), repeatable=True
        )
        return int(found.rowcount)

    async def _state(self, name: str) -> Mapping[str, Any] | None:
        found = await self._database.statement(
            lambda connection: connection.execute(_STATE, {"name": name}), repeatable=True
        )
        value: Mapping[str, Any] | None = found.scalar_one_or_none()
        return value


async def _hold_term(connection: AsyncConnection, term: int) -> None:
    """Have nobody raise the term until the transaction ends; StaleTerm."""
    if (await connection.execute(_HOLD_TERM, {"term": term})).first() is None:
        await require_term(connection, term)
