"""The transition log in memory (port: `ports.transition_log`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from sandfleet.model.ids import OrganisationId, SandboxId
from sandfleet.model.transition import Transition
from sandfleet.ports.transition_log import LogQuery
from sandfleet.testing.memory.database import MemoryDatabase
from sandfleet.testing.memory.link import Link


class MemoryTransitionLog:
    """Reads what others wrote with their changes."""

    def __init__(self, database: MemoryDatabase, link: Link) -> None:
        self._database = database
        self._link = link

    async def after(
        self, organisation_id: OrganisationId, sandbox_id: SandboxId, row: int, *, limit: int
    ) -> Sequence[Transition]:
        """Return the next rows, oldest first."""

        def work() -> Sequence[Transition]:
            newer = (one for one in self._of(organisation_id, sandbox_id) if (one.id or 0) > row)
            return list(islice(newer, limit))

        return await self._link.call(work, repeatable=True, name="log_after")

    async def oldest(self, organisation_id: OrganisationId, sandbox_id: SandboxId) -> int | None:
        """Return the number of the oldest row."""

        def work() -> int | None:
            return next((one.id for one in self._of(organisation_id, sandbox_id)), None)

        return await self._link.call(work, repeatable=True, name="log_oldest")

    async def newest(self, query: LogQuery, *, limit: int) -> Sequence[Transition]:
        """Return those that fit, newest first."""

        def work() -> Sequence[Transition]:
            fitting = (one for one in reversed(self._database.transitions) if query.fits(one))
            return list(islice(fitting, limit))

        return await self._link.call(work, repeatable=True, name="log_newest")

    async def following(self, row: int, *, limit: int) -> Sequence[Transition]:
        """Return all rows with higher numbers."""

        def work() -> Sequence[Transition]:
            return list(islice((one for one in self._database.transitions if (one.id or 0) > row), limit))

        return await self._link.call(work, repeatable=True, name="log_following")

    async def oldest_of_all(self) -> int | None:
        """Return the number of the oldest row."""
        return await self._link.call(
            lambda: next((one.id for one in self._database.transitions), None),
            repeatable=True,
            name="log_oldest_of_all",
        )

    async def mark(self) -> int:
        """Return the row behind which history begins."""
        return await self._link.call(lambda: self._database.log_mark, repeatable=True, name="log_mark")

    async def set_mark(self) -> int:
        """Have it begin behind the newest row."""

        def work() -> int:
            self._database.log_mark = len(self._database.transitions)
            return self._database.log_mark

        return await self._link.call(work, repeatable=True, name="set_log_mark")

    def _of(self, organisation_id: OrganisationId, sandbox_id: SandboxId) -> Iterator[Transition]:
        owner = (organisation_id, sandbox_id)
        return (one for one in self._database.transitions if (one.organisation_id, one.sandbox_id) == owner)
