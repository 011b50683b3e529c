"""Rates over a real Valkey: all replicas share a bucket, and each has its own while there is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.redis.connection import RedisConnection
from sandfleet.adapters.redis.rates import RedisRateLimiter
from sandfleet.planning.rate import NOTHING_RETRY_S, Rate

NOWHERE = "redis://127.0.0.1:1/0"
SLOW = Rate(1)
Limiter = Callable[[str], RedisRateLimiter]


@pytest.fixture
async def limiter() -> AsyncIterator[Limiter]:
    async with AsyncExitStack() as opened:

        def open_one(url: str) -> RedisRateLimiter:
            connection = RedisConnection(url, SystemClock())
            opened.push_async_callback(connection.close)
            return RedisRateLimiter(connection, SystemClock())

        yield open_one


async def test_replicas_share_a_bucket_whoever_asks_at_once(redis_url: str, limiter: Limiter) -> None:
    replicas = [limiter(redis_url) for _ in range(2)]
    # A bucket of ten that takes a hundred seconds to fill by one more of these.
    assert await replicas[0].take("creates:a", Rate(10), count=1000) == 0
    waits = await asyncio.gather(*(one.take("creates:a", Rate(10)) for one in replicas for _ in range(20)))
    assert all(98 < wait_s <= 99.1 for wait_s in waits)
    assert await replicas[1].take("creates:b", Rate(10)) == 0  # another's is another's


async def test_of_many_at_once_a_second_s_worth_comes_through(redis_url: str, limiter: Limiter) -> None:
    replicas = [limiter(redis_url) for _ in range(2)]
    clock = SystemClock()
    began_s = clock.monotonic()
    waits = await asyncio.gather(*(one.take("creates:a", Rate(5)) for one in replicas for _ in range(25)))
    most = 5 * (clock.monotonic() - began_s + 1) + 1
    assert 5 <= sum(wait_s == 0 for wait_s in waits) <= most


async def test_without_redis_each_replica_counts_for_itself(limiter: Limiter) -> None:
    replicas = [limiter(NOWHERE) for _ in range(2)]
    for replica in replicas:
        assert await replica.take("creates:a", SLOW, count=100) == 0
        assert 90 < await replica.take("creates:a", SLOW) <= 100
        assert await replica.take("creates:b", SLOW) == 0


async def test_when_redis_is_back_its_bucket_counts_again(redis_url: str, limiter: Limiter) -> None:
    replica = limiter(redis_url)
    assert await replica.take("creates:a", SLOW, count=100) == 0
    connection = replica._connection
    connection._open_until = connection._clock.monotonic() + 100  # as after a failure
    assert await replica.take("creates:a", SLOW, count=1000) == 0
    assert await replica.take("creates:a", SLOW) > 900
    connection._open_until = 0.0
    assert 90 < await replica.take("creates:a", SLOW) <= 100
    connection._open_until = connection._clock.monotonic() + 100
    assert await replica.take("creates:a", SLOW) == 0  # what it counted alone the time before is over


async def test_a_rate_of_nothing_lets_nothing_through(redis_url: str, limiter: Limiter) -> None:
    assert await limiter(redis_url).take("creates:a", Rate(0)) == NOTHING_RETRY_S
