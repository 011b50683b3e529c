"""Which workers are being drained, and how far that is (adapter: `adapters/postgres/drains.py`).

Rule: a drain is begun and ended by somebody's word alone. What the leader sees of it is written down in
the leader's term, and never begins a drain anew that somebody has ended meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sandfleet.model.drain import Drain, DrainTerms
from sandfleet.model.ids import WorkerId


class DrainStore(Protocol):
    """The drains that have not been undone."""

    async def begin(self, worker_id: WorkerId, *, actor: str, terms: DrainTerms | None = None) -> Drain:
        """Place nothing on the worker from now on, and write the drain down; NotFound, also of a gone worker.

        An operator's drain that has begun already goes on from where it is, with new terms if some are given;
        one that a loop of the fleet has begun becomes the operator's. Loops begin theirs by
        `ports.fleet_store`.
        """
        ...

    async def end(self, worker_id: WorkerId, *, actor: str) -> bool:
        """Let the worker take sandboxes again, whoever began it; false when it was not drained. NotFound."""
        ...

    async def get(self, worker_id: WorkerId) -> Drain | None:
        """Return the worker's drain, None when it is not being drained."""
        ...

    async def list(self) -> Sequence[Drain]:
        """Return the drains of all workers that are not gone, by worker."""
        ...

    async def save(self, drain: Drain, *, term: int) -> bool:
        """Write down how far it is; false when that very drain has been ended meanwhile. StaleTerm.

        `drained_at` and `stuck_at` are the database's own time, set when the state becomes so; each is told
        in the log. What was agreed when it began stays as it is.
        """
        ...
