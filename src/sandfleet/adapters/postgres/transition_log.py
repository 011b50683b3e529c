"""The transition log, one sandbox's and the whole one (port: `ports.transition_log`).

Fact: all rows of one sandbox are written under the lock of its row, so their numbers
rise in the order in which they become visible, and a reader that goes on after the
newest number that it saw misses none.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Boolean, ColumnElement, bindparam, func, literal_column, select
from sqlalchemy.dialects.postgresql import insert

from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.rows import transition_from
from sandfleet.adapters.postgres.tables import OF_FLEET, organisations, planner_states, transitions
from sandfleet.model.ids import OrganisationId, SandboxId
from sandfleet.model.transition import Transition
from sandfleet.ports.transition_log import LogQuery

_OF_SANDBOX = (
    transitions.c.organisation_id == bindparam("organisation_id"),
    transitions.c.sandbox_id == bindparam("sandbox"),
)
_AFTER = (
    select(transitions)
    .where(*_OF_SANDBOX, transitions.c.id > bindparam("after"))
    .order_by(transitions.c.id)
    .limit(bindparam("limit"))
)
_OLDEST = select(func.min(transitions.c.id)).where(*_OF_SANDBOX)
_FOLLOWING = (
    select(transitions)
    .where(transitions.c.id > bindparam("after"))
    .order_by(transitions.c.id)
    .limit(bindparam("limit"))
)
_OLDEST_OF_ALL = select(func.min(transitions.c.id))
_OF_FLEET: ColumnElement[bool] = literal_column(f"({OF_FLEET})", Boolean())
_MARK = "events"
_READ_MARK = select(planner_states.c.value["row"].as_integer()).where(planner_states.c.name == _MARK)
_NEW_MARK = insert(planner_states).values(
    name=_MARK,
    value=func.jsonb_build_object(
        "row", select(func.coalesce(func.max(transitions.c.id), 0)).scalar_subquery()
    ),
    changed_at=func.now(),
)
_SET_MARK = _NEW_MARK.on_conflict_do_update(
    index_elements=[planner_states.c.name],
    set_={"value": _NEW_MARK.excluded.value, "changed_at": func.now()},
).returning(planner_states.c.value["row"].as_integer())


class PostgresTransitionLog:
    """Reads what others wrote with their changes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def after(
        self, organisation_id: OrganisationId, sandbox_id: SandboxId, row: int, *, limit: int
    ) -> Sequence[Transition]:
        """Return the next rows, oldest first."""
        parameters = {
            "organisation_id": organisation_id,
            "sandbox": sandbox_id,
            "after": row,
            "limit": limit,
        }
        found = await self._database.statement(
            lambda connection: connection.execute(_AFTER, parameters), repeatable=True
        )
        return [transition_from(one) for one in found]

    async def oldest(self, organisation_id: OrganisationId, sandbox_id: SandboxId) -> int | None:
        """Return the number of the oldest row."""
        parameters = {"organisation_id": organisation_id, "sandbox": sandbox_id}
        found = await self._database.statement(
            lambda connection: connection.execute(_OLDEST, parameters), repeatable=True
        )
        number: int | None = found.scalar()
        return number

    async def newest(self, query: LogQuery, *, limit: int) -> Sequence[Transition]:
        """Return those that fit, newest first."""
        asked = select(transitions).where(*_conditions(query)).order_by(transitions.c.id.desc()).limit(limit)
        found = await self._database.statement(lambda connection: connection.execute(asked), repeatable=True)
        return [transition_from(one) for one in found]

    async def following(self, row: int, *, limit: int) -> Sequence[Transition]:
        """Return all rows with higher numbers."""
        parameters = {"after": row, "limit": limit}
        found = await self._database.statement(
            lambda connection: connection.execute(_FOLLOWING, parameters), repeatable=True
        )
        return [transition_from(one) for one in found]

    async def oldest_of_all(self) -> int | None:
        """Return the number of the oldest row."""
        found = await self._database.statement(
            lambda connection: connection.execute(_OLDEST_OF_ALL), repeatable=True
        )
        number: int | None = found.scalar()
        return number

    async def mark(self) -> int:
        """Return the row behind which history begins."""
        found = await self._database.statement(
            lambda connection: connection.execute(_READ_MARK), repeatable=True
        )
        return int(found.scalar() or 0)

    async def set_mark(self) -> int:
        """Have it begin behind the newest row."""
        found = await self._database.statement(
            lambda connection: connection.execute(_SET_MARK), repeatable=True
        )
        return int(found.scalar_one())


def _conditions(query: LogQuery) -> Sequence[ColumnElement[bool]]:
    row = transitions.c
    conditions: list[ColumnElement[bool]] = [row.id > query.after] if query.after else []
    if query.before is not None:
        conditions.append(row.id < query.before)
    if query.events is not None:
        conditions.append(row.event.in_(sorted(query.events)))
    if query.is_of_fleet:
        conditions.append(_OF_FLEET)
    if query.worker_id is not None:
        conditions.append(row.worker_id == query.worker_id)
    if query.sandbox_id is not None:
        # Its index begins with the organisation, of which there are few.
        conditions.append(row.organisation_id.in_(select(organisations.c.id)))
        conditions.append(row.sandbox_id == query.sandbox_id)
    if query.launch_id is not None:
        conditions.append(row.detail["launch"].astext == query.launch_id)
    if query.since is not None:
        conditions.append(row.at >= query.since)
    if query.until is not None:
        conditions.append(row.at < query.until)
    return conditions
