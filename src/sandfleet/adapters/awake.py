"""Time limits that count only the time in which this process ran.

A process that stood still (stopped, or starved by its host) finds its time-outs over when it goes on, though
whoever it waited for has long answered: the answer lies unread. So the time is counted in small steps, and a
step that took long counts as little more than one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

STEP_S = 0.5
COUNTED_MAX_S = 2 * STEP_S
"""What one step counts at most: a busy loop is late, and that is waiting too."""


@asynccontextmanager
async def awake_timeout(limit_s: float) -> AsyncIterator[None]:
    """Raise TimeoutError when the block takes longer than `limit_s` of time in which this process ran."""
    async with asyncio.timeout(None) as scope:
        countdown = _Countdown(scope, limit_s)
        try:
            yield
        finally:
            countdown.stop()


class _Countdown:
    """Ends a scope when its time is used up."""

    def __init__(self, scope: asyncio.Timeout, limit_s: float) -> None:
        self._scope = scope
        self._left_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._timer = self._next()

    def stop(self) -> None:
        """Count no more."""
        self._timer.cancel()

    def _next(self) -> asyncio.TimerHandle:
        return self._loop.call_at(self._since + min(STEP_S, max(0.0, self._left_s)), self._count)

    def _count(self) -> None:
        now = self._loop.time()
        self._left_s -= min(now - self._since, COUNTED_MAX_S)
        self._since = now
        if self._left_s <= 0:
            self._scope.reschedule(now)
        else:
            self._timer = self._next()
