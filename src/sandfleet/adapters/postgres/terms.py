"""The leader's term in PostgreSQL (port: `ports.stores.TermStore`)."""

from __future__ import annotations

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.fleet_log import tell
from sandfleet.adapters.postgres.statements import LEADER
from sandfleet.adapters.postgres.tables import terms
from sandfleet.model.errors import StaleTerm
from sandfleet.model.fleet_news import elected

_CURRENT = select(terms.c.number).where(terms.c.name == LEADER)
# The update waits for every statement that holds the old term in its guard, and those
# that come later find a newer number: effects of two leaders cannot mix.
_RAISE = (
    update(terms)
    .where(terms.c.name == LEADER)
    .values(number=terms.c.number + 1, holder=bindparam("new_holder"), raised_at=func.now())
    .returning(terms.c.number)
)


class PostgresTermStore:
    """One row that counts the elections."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def raise_term(self, holder: str) -> int:
        """Begin a new term."""

        async def work(connection: AsyncConnection) -> int:
            number = int((await connection.execute(_RAISE, {"new_holder": holder})).scalar_one())
            await tell(connection, elected(number), actor=holder)
            return number

        # Raised twice is as good as once: only the newest number is used.
        return await self._database.transact(work, repeatable=True)

    async def current_term(self) -> int:
        """Return the newest term."""
        result = await self._database.statement(
            lambda connection: connection.execute(_CURRENT), repeatable=True
        )
        return int(result.scalar_one())


async def require_term(connection: AsyncConnection, term: int) -> None:
    """Raise StaleTerm unless `term` is the newest."""
    current = (await connection.execute(_CURRENT)).scalar_one()
    if current != term:
        raise StaleTerm(f"term {term} is over: the newest is {current}")
