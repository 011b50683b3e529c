"""What may be lost: leases, routes, wake-ups (adapter: `adapters/redis`).

Every method degrades when Redis is away: reads answer None, writes are dropped,
and the lease is not held. Nothing here raises for that reason.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from sandfleet.model.ids import OrganisationId, SandboxId, WorkerId


@dataclass(frozen=True, slots=True)
class Route:
    """Where a running sandbox is served. Only ever written for state `running`."""

    sandbox_id: SandboxId
    organisation_id: OrganisationId
    worker_id: WorkerId
    worker_url: str
    epoch: int


class RouteCache(Protocol):
    """Shared cache of routes, short-lived, checked by the worker through the epoch."""

    async def get(self, sandbox_id: SandboxId) -> Route | None:
        """Return the route if one is known."""
        ...

    async def put(self, route: Route) -> None:
        """Remember it, unless a higher epoch is already there."""
        ...

    async def forget(self, sandbox_id: SandboxId) -> None:
        """Drop it."""
        ...


class LeaseStore(Protocol):
    """The leader's lease."""

    async def acquire(self, name: str, holder: str, *, ttl_s: float) -> bool:
        """Take the lease if nobody has it."""
        ...

    async def extend(self, name: str, holder: str, *, ttl_s: float) -> bool:
        """Prolong it if it is still ours (compare and extend)."""
        ...

    async def release(self, name: str, holder: str) -> None:
        """Give it up if it is still ours."""
        ...


class WakeUps(Protocol):
    """Hints that something changed. Hints only wake; whoever wakes reads the store."""

    async def publish(self, topic: str) -> None:
        """Wake everybody who waits for `topic`, on every replica and in this process."""
        ...

    def subscribe(self, topic: str) -> AsyncIterator[None]:
        """Yield at each hint; also yields about once a second, so a lost hint costs a second."""
        ...

    async def is_healthy(self) -> bool:
        """Whether Redis answers."""
        ...
