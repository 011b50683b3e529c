"""Limits on how fast an organisation does something (adapter: `adapters/redis/rates.py`)."""

from __future__ import annotations

from typing import Protocol

from sandfleet.planning.rate import Rate


class RateLimiter(Protocol):
    """One bucket for each name, shared by all replicas.

    Without Redis each replica counts for itself, from a full bucket: then as many replicas let through
    as many times the rate. It never stops limiting, and it refuses nobody for that reason.
    """

    async def take(self, name: str, rate: Rate, *, count: int = 1) -> float:
        """Return 0 for what is let through, else after how many seconds to ask again."""
        ...
