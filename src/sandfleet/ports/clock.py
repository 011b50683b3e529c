"""Time as a thing that is passed in."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """The only source of time outside the database. Fakes jump."""

    def now(self) -> datetime:
        """Return the wall clock, timezone-aware UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back, for measuring spans."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...
