"""Waiting longer after each failure, up to a bound."""

from __future__ import annotations

from sandfleet.ports.clock import Clock


class Backoff:
    """The waits of one loop of attempts."""

    def __init__(self, clock: Clock, *, first_s: float = 0.1, most_s: float = 10.0) -> None:
        self._clock = clock
        self._next_s = first_s
        self._most_s = most_s
        self.attempts = 0

    async def wait(self) -> None:
        """Wait, and wait twice as long the next time."""
        self.attempts += 1
        await self._clock.sleep(self._next_s)
        self._next_s = min(self._most_s, self._next_s * 2)
