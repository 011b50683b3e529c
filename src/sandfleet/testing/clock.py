"""A clock that jumps: time is a thing the test holds (port: `ports.clock.Clock`)."""

from __future__ import annotations

import asyncio
import heapq
from datetime import UTC, datetime, timedelta

SETTLE_ROUNDS = 50
"""Turns of the event loop that let everything that can run, run."""
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


class JumpingClock:
    """Stands still until `advance`; sleepers wake in the order of their times."""

    def __init__(self, *, now: datetime = BEGINNING) -> None:
        self._now = now
        self._elapsed_s = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def now(self) -> datetime:
        """Return the wall clock."""
        return self._now + timedelta(seconds=self._elapsed_s)

    def monotonic(self) -> float:
        """Return the seconds that were advanced."""
        return self._elapsed_s

    async def sleep(self, seconds: float) -> None:
        """Wait until the test has advanced that far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._elapsed_s + seconds, self._count, woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Move time on, stopping at each sleeper on the way and letting it run."""
        end = self._elapsed_s + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            at, _, woken = heapq.heappop(self._sleepers)
            self._elapsed_s = max(self._elapsed_s, at)
            if not woken.done():
                woken.set_result(None)
            await self.settle()
        self._elapsed_s = end
        await self.settle()

    async def settle(self) -> None:
        """Let everything that can run, run."""
        for _ in range(SETTLE_ROUNDS):
            await asyncio.sleep(0)
