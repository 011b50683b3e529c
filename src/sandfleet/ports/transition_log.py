"""Reading the transition log: one sandbox's forward, and the whole one (adapter: `adapters/postgres`).

Fact: rows of one sandbox become visible in the order of their numbers. Rows of different things need not:
a number that is missing may be that of a transaction which has not ended yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sandfleet.lifecycle.event_types import FLEET_ACTORS
from sandfleet.model.ids import OrganisationId, SandboxId, WorkerId
from sandfleet.model.transition import Transition


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which rows of the whole log are asked for; what is None restricts nothing."""

    events: frozenset[str] | None = None
    is_of_fleet: bool = False
    """Only what the fleet itself decided or saw: no rows of sandboxes but the beginnings of what its loops
    have them do."""
    worker_id: WorkerId | None = None
    sandbox_id: SandboxId | None = None
    launch_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    after: int = 0
    before: int | None = None

    def fits(self, row: Transition) -> bool:
        """Whether a row is one of them."""
        number = row.id or 0
        return all(
            (
                number > self.after,
                self.before is None or number < self.before,
                self.events is None or row.event in self.events,
                not self.is_of_fleet or row.sandbox_id is None or row.actor in FLEET_ACTORS,
                self.worker_id in (None, row.worker_id),
                self.sandbox_id in (None, row.sandbox_id),
                self.launch_id in (None, row.detail.get("launch")),
                self.since is None or row.at >= self.since,
                self.until is None or row.at < self.until,
            )
        )


class TransitionLog(Protocol):
    """The log. All of it raises `StoreUnavailable`."""

    async def after(
        self, organisation_id: OrganisationId, sandbox_id: SandboxId, row: int, *, limit: int
    ) -> Sequence[Transition]:
        """Return rows of one sandbox with higher numbers than `row`, oldest first."""
        ...

    async def oldest(self, organisation_id: OrganisationId, sandbox_id: SandboxId) -> int | None:
        """Return the number of one sandbox's oldest row that is kept, None without any."""
        ...

    async def newest(self, query: LogQuery, *, limit: int) -> Sequence[Transition]:
        """Return those that fit, newest first."""
        ...

    async def following(self, row: int, *, limit: int) -> Sequence[Transition]:
        """Return all rows with higher numbers than `row`, oldest first."""
        ...

    async def oldest_of_all(self) -> int | None:
        """Return the number of the oldest row that is kept, None without any."""
        ...

    async def mark(self) -> int:
        """Return the row behind which history begins for whoever did not ask for more; 0 at first."""
        ...

    async def set_mark(self) -> int:
        """Have it begin behind the newest row that there is now; nothing is deleted."""
        ...
