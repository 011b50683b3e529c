"""The system's clock."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime


class SystemClock:
    """Real time (port: `ports.clock.Clock`)."""

    def now(self) -> datetime:
        """Return the wall clock in UTC."""
        return datetime.now(UTC)  # noqa: TID251 -- this is the one place that looks

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
