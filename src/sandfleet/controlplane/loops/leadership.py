"""Who leads: a lease in Redis, and a term in PostgreSQL that fences the leader before.

Rule 1: the lease counts from before it was asked for, and this replica stops leading a
margin before it can have expired: two leaders overlap only if a clock runs wild, and
then the older term's effects are refused by the store.
Rule 2: each election raises the term, so a term is never shared.
Rule 3: without Redis nobody leads: no new decisions; everything that runs goes on.
Rule 4: who gives the lease up says so, and those who wait for it ask at once. Who dies says
nothing, and those who wait ask often enough that the length of the lease is all that it costs.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.model.errors import StoreUnavailable

LEASE = "leader"
TOPIC = "leader"
"""Hints that the lease is free."""
TICKS_PER_LEASE = 12
MARGIN_RATIO = 0.2
"""The part of the lease's length that is not used."""

log = structlog.get_logger(__name__)


class Leadership:
    """This replica's claim to lead."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._ttl_s = plane.settings.leader_lease_s
        self._term: int | None = None
        self._until = 0.0
        self._elected = asyncio.Event()
        self._is_retired = False

    @property
    def interval_s(self) -> float:
        """How often to tick."""
        return self._ttl_s / TICKS_PER_LEASE

    async def next_election(self) -> None:
        """Return when this replica has been elected anew."""
        await self._elected.wait()

    @property
    def term(self) -> int | None:
        """The term in which this replica leads now, or None."""
        return self._term if self._plane.clock.monotonic() < self._until else None

    async def tick(self) -> str:
        """Take or keep the lease; run it several times within the lease's length."""
        asked_at = self._plane.clock.monotonic()
        leases, holder = self._plane.leases, self._plane.replica_id
        if self.term is not None:
            if await leases.extend(LEASE, holder, ttl_s=self._ttl_s) and not self._is_retired:
                self._until = asked_at + self._ttl_s * (1 - MARGIN_RATIO)
                return f"I lead, term {self._term}"
            self._until = 0.0
            return "I led, and lost the lease"
        if self._is_retired or not await leases.acquire(LEASE, holder, ttl_s=self._ttl_s):
            return "another leads, or Redis is away"
        if self._is_retired:
            await self.give_up()
            return "I go, and gave back what I was given"
        return await self._begin_term(asked_at)

    async def retire(self) -> None:
        """Give the lease up for good, whatever a tick that is under way finds."""
        self._is_retired = True
        await self.give_up()

    async def give_up(self) -> None:
        """Let another replica lead at once."""
        self._until = 0.0
        await self._plane.leases.release(LEASE, self._plane.replica_id)
        await self._plane.wake_ups.publish(TOPIC)

    def depose(self) -> None:
        """Stop leading: the store has seen a newer term."""
        self._until = 0.0

    async def _begin_term(self, asked_at: float) -> str:
        try:
            self._term = await self._plane.stores.terms.raise_term(self._plane.replica_id)
        except StoreUnavailable:
            with suppress(StoreUnavailable):
                await self.give_up()
            return "PostgreSQL is away: I do not lead"
        self._until = asked_at + self._ttl_s * (1 - MARGIN_RATIO)
        self._elected.set()
        self._elected = asyncio.Event()
        log.info("elected", term=self._term)
        return f"I lead, term {self._term}"
