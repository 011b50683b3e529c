"""One pool of connections to Redis or Valkey, behind a circuit breaker.

Everything in Redis may be lost, so a call that fails answers with its default. After
a failure the circuit is open for a moment and calls answer at once: a Redis that is
away costs one time-out per moment, not one per request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from sandfleet.ports.clock import Clock

T = TypeVar("T")

CALL_TIMEOUT_S = 0.5
CIRCUIT_OPEN_S = 1.0
_CONNECTIONS_MAX = 32

_log = structlog.get_logger(__name__)


class RedisConnection:
    """Calls that degrade instead of failing."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.url = url
        self._clock = clock
        self._open_until = 0.0
        self._was_failing = False
        self._calls: set[asyncio.Task[Any]] = set()
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS_MAX,
            timeout=CALL_TIMEOUT_S,
            socket_timeout=CALL_TIMEOUT_S,
            socket_connect_timeout=CALL_TIMEOUT_S,
            # One repeat, because a pooled connection may have died since it was used last.
            retry=Retry(NoBackoff(), 1),
            decode_responses=True,
        )
        self.client: Redis = Redis(connection_pool=pool)

    async def call(self, work: Callable[[Redis], Awaitable[Any]], *, default: T) -> Any | T:
        """Return what `work` returns, or the default when Redis is away."""
        if self._clock.monotonic() < self._open_until:
            return default
        # In a task of its own, which a cancelled caller leaves behind: the driver neither
        # closes its connection when it is cancelled while connecting, nor does it always
        # let the cancellation through. The task is short (the time-outs) and `close` awaits it.
        call = asyncio.get_running_loop().create_task(self._attempt(work, default))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return await asyncio.shield(call)

    async def _attempt(self, work: Callable[[Redis], Awaitable[Any]], default: T) -> Any | T:
        try:
            answer = await work(self.client)
        except (RedisError, OSError, TimeoutError) as error:
            self._failed(error)
            return default
        self._was_failing = False
        return answer

    async def is_healthy(self) -> bool:
        """Say whether Redis answers."""
        return bool(await self.call(lambda client: client.ping(), default=False))

    async def close(self) -> None:
        """Wait for the calls that are under way and close every connection."""
        if self._calls:
            await asyncio.wait(self._calls)
        await self.client.aclose()
        await self.client.connection_pool.disconnect()

    def _failed(self, error: Exception) -> None:
        self._open_until = self._clock.monotonic() + CIRCUIT_OPEN_S
        if not self._was_failing:
            _log.warning("redis_away", error=type(error).__name__)
        self._was_failing = True
