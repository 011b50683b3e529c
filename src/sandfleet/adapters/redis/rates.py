"""Rates in Redis (port: `ports.rates.RateLimiter`), and in this process while Redis is away.

The script is `planning.rate.taken` by Redis's own clock, which is the one that all replicas share.
"""

from __future__ import annotations

import structlog

from sandfleet.adapters.redis.connection import RedisConnection
from sandfleet.planning.rate import NOTHING_RETRY_S, US, Rate, taken
from sandfleet.ports.clock import Clock

# Microseconds: they are exact in a double, which is all that Redis's Lua has.
_TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full_at = tonumber(redis.call('GET', KEYS[1]) or now)
if full_at < now then full_at = now end
local wait = full_at - now - tonumber(ARGV[1])
if wait > 0 then return math.ceil(wait) end
full_at = full_at + tonumber(ARGV[2])
redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000) + 1)
return 0
"""
_LOCAL_MAX = 10_000

_log = structlog.get_logger(__name__)


class RedisRateLimiter:
    """Buckets that all replicas share, with one of its own for each name while they cannot be reached."""

    def __init__(self, connection: RedisConnection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._take = connection.client.register_script(_TAKE)
        self._own: dict[str, int] = {}
        self._is_alone = False

    async def take(self, name: str, rate: Rate, *, count: int = 1) -> float:
        """Take from the shared bucket, else from this process's own."""
        if rate.per_s <= 0:
            return NOTHING_RETRY_S
        arguments = [rate.behind_max_us, count * rate.interval_us]
        answer = await self._connection.call(
            lambda client: self._take(keys=[f"sandfleet:rate:{name}"], args=arguments), default=None
        )
        if answer is None:
            return self._take_alone(name, rate, count)
        self._is_alone = False
        return int(answer) / US

    def _take_alone(self, name: str, rate: Rate, count: int) -> float:
        now_us = int(self._clock.monotonic() * US)
        if not self._is_alone:
            # What was counted here the last time is over, or is counted in Redis.
            self._own.clear()
            self._is_alone = True
            _log.warning("rates_counted_alone", reason="Redis is away: each replica counts for itself")
        if len(self._own) >= _LOCAL_MAX:
            self._own = {other: until for other, until in self._own.items() if until > now_us}
        full_at_us = self._own.get(name, now_us)
        self._own[name], wait_us = taken(rate, full_at_us, count=count, now_us=now_us)
        return wait_us / US
