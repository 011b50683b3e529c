"""Clocks on virtual time: each process has its own, a little wrong (port: `ports.clock.Clock`)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from sandfleet.testing.simulation.loop import VirtualLoop

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


class VirtualClock:
    """The loop's time, plus how wrong this process is about it."""

    def __init__(self, loop: VirtualLoop, *, wrong_by_s: float = 0.0) -> None:
        self._loop = loop
        self._beginning = BEGINNING + timedelta(seconds=wrong_by_s)

    def now(self) -> datetime:
        """Return the wall clock."""
        return self._beginning + timedelta(seconds=self._loop.time())

    def monotonic(self) -> float:
        """Return the seconds since the beginning, which go on while a process is paused."""
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        """Wait, on virtual time."""
        await asyncio.sleep(seconds)
