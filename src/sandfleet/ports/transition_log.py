"""Reading the transition log forward, row after row (adapter: `adapters/postgres`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sandfleet.model.ids import OrganisationId, SandboxId
from sandfleet.model.transition import Transition


class TransitionLog(Protocol):
    """The log of one sandbox from its beginning. Both raise `StoreUnavailable`."""

    async def after(
        self, organisation_id: OrganisationId, sandbox_id: SandboxId, row: int, *, limit: int
    ) -> Sequence[Transition]:
        """Return rows with higher numbers than `row`, oldest first."""
        ...

    async def oldest(self, organisation_id: OrganisationId, sandbox_id: SandboxId) -> int | None:
        """Return the number of the oldest row that is kept, None without any."""
        ...
