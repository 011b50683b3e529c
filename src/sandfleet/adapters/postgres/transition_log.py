"""The transition log, read forward (port: `ports.transition_log`).

Fact: all rows of one sandbox are written under the lock of its row, so their numbers
rise in the order in which they become visible, and a reader that goes on after the
newest number that it saw misses none.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, func, select

from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.rows import transition_from
from sandfleet.adapters.postgres.tables import transitions
from sandfleet.model.ids import OrganisationId, SandboxId
from sandfleet.model.transition import Transition

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
