"""Leases, routes and hints in a real Valkey, and without one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.redis import wakeups
from sandfleet.adapters.redis.connection import RedisConnection
from sandfleet.adapters.redis.leases import RedisLeaseStore
from sandfleet.adapters.redis.routes import RedisRouteCache
from sandfleet.adapters.redis.wakeups import RedisWakeUps
from sandfleet.local.embedded_valkey import RunningValkey
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.ports.coordination import Route
from sandfleet.testing.builders import ORGANISATION

ROUTE = Route(SandboxId("sb-one"), ORGANISATION, WorkerId("wk-one"), "http://wk-one:1", 3)
NOWHERE = "redis://127.0.0.1:1/0"
Connect = Callable[[str], RedisConnection]
HINTED_WITHIN_S = 60


@pytest.fixture
def hints_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wake by itself, so that what wakes was a hint, however late it comes."""
    monkeypatch.setattr(wakeups, "FALLBACK_S", 10 * HINTED_WITHIN_S)


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    async with AsyncExitStack() as opened:

        def open_one(url: str) -> RedisConnection:
            connection = RedisConnection(url, SystemClock())
            opened.push_async_callback(connection.close)
            return connection

        yield open_one


async def test_one_of_two_gets_the_lease_and_only_it_may_extend(redis_url: str, connect: Connect) -> None:
    leases = RedisLeaseStore(connect(redis_url))
    assert await leases.acquire("leader", "a", ttl_s=10)
    assert await leases.acquire("leader", "a", ttl_s=10)
    assert not await leases.acquire("leader", "b", ttl_s=10)
    assert not await leases.extend("leader", "b", ttl_s=10)
    assert await leases.extend("leader", "a", ttl_s=10)
    await leases.release("leader", "b")
    assert not await leases.acquire("leader", "b", ttl_s=10)
    await leases.release("leader", "a")
    assert await leases.acquire("leader", "b", ttl_s=10)


async def test_a_lease_that_ran_out_cannot_be_extended(redis_url: str, connect: Connect) -> None:
    connection = connect(redis_url)
    leases = RedisLeaseStore(connection)
    assert await leases.acquire("leader", "a", ttl_s=10)
    await connection.client.pexpire("sandfleet:lease:leader", 0)
    assert not await leases.extend("leader", "a", ttl_s=10)


async def test_a_route_is_shared_and_a_newer_owner_stays(redis_url: str, connect: Connect) -> None:
    one = RedisRouteCache(connect(redis_url), SystemClock())
    other = RedisRouteCache(connect(redis_url), SystemClock())
    await one.put(ROUTE)
    assert await other.get(ROUTE.sandbox_id) == ROUTE
    newer = replace(ROUTE, epoch=4)
    await other.put(newer)
    await one.put(ROUTE)
    third = RedisRouteCache(connect(redis_url), SystemClock())
    assert await third.get(ROUTE.sandbox_id) == newer
    await third.forget(ROUTE.sandbox_id)
    assert await third.get(ROUTE.sandbox_id) is None


async def test_a_hint_wakes_this_process_and_the_other_replica(
    redis_url: str, connect: Connect, hints_only: None
) -> None:
    here = RedisWakeUps(connect(redis_url), SystemClock())
    there = RedisWakeUps(connect(redis_url), SystemClock())
    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(there.run())
        ready = there.subscribe("ready?")
        await asyncio.wait_for(anext(ready), HINTED_WITHIN_S)  # `run` wakes all when it listens
        far, near, other = there.subscribe("t"), here.subscribe("t"), here.subscribe("else")
        await here.publish("t")
        await asyncio.wait_for(anext(near), HINTED_WITHIN_S)
        await asyncio.wait_for(anext(far), HINTED_WITHIN_S)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(other), 0.1)
        listening.cancel()


async def test_topics_nobody_listens_to_are_forgotten(
    redis_url: str, connect: Connect, hints_only: None
) -> None:
    wake_ups = RedisWakeUps(connect(redis_url), SystemClock())
    kept = wake_ups.subscribe("kept")
    for number in range(1000):
        wake_ups.subscribe(f"sandbox:{number}")
    assert len(wake_ups._subscriptions) < 200
    await wake_ups.publish("kept")
    await asyncio.wait_for(anext(kept), HINTED_WITHIN_S)


async def test_without_redis_everything_degrades_quickly(connect: Connect, hints_only: None) -> None:
    connection = connect(NOWHERE)
    clock = SystemClock()
    leases, routes = RedisLeaseStore(connection), RedisRouteCache(connection, clock)
    wake_ups = RedisWakeUps(connection, clock)
    began = clock.monotonic()
    for _ in range(50):
        assert not await leases.acquire("leader", "a", ttl_s=10)
        await routes.put(ROUTE)
        assert await routes.get(SandboxId("sb-unknown")) is None
        await wake_ups.publish("t")
    assert await routes.get(ROUTE.sandbox_id) == ROUTE  # the layer of this process
    assert not await wake_ups.is_healthy()
    hints = wake_ups.subscribe("t")
    await wake_ups.publish("t")
    await asyncio.wait_for(anext(hints), HINTED_WITHIN_S)
    assert clock.monotonic() - began < 20  # and not a second for each of two hundred calls


async def test_a_restarted_redis_is_used_again(
    redis_url: str, connect: Connect, valkey_server: RunningValkey
) -> None:
    connection = connect(redis_url)
    wake_ups = RedisWakeUps(connection, SystemClock())
    assert await wake_ups.is_healthy()
    await asyncio.to_thread(valkey_server.kill)
    assert not await wake_ups.is_healthy()
    await asyncio.to_thread(valkey_server.restart)
    hints = wake_ups.subscribe("nothing")
    for _ in range(60):
        if await wake_ups.is_healthy():
            break
        await anext(hints)  # a second, which is how long the circuit stays open
    assert await RedisLeaseStore(connection).acquire("leader", "a", ttl_s=1)
