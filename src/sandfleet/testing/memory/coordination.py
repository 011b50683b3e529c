"""Leases, routes and hints in memory (ports: `ports.coordination`): what Redis holds, and may lose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar
from weakref import ref

from sandfleet.adapters.redis.routes import LOCAL_TTL_S, SHARED_TTL_S
from sandfleet.adapters.redis.wakeups import Subscription
from sandfleet.model.errors import StoreUnavailable
from sandfleet.model.ids import SandboxId
from sandfleet.ports.coordination import Route
from sandfleet.testing.memory.link import Link

T = TypeVar("T")
Deliver = Callable[[Callable[[str], None], str], None]
"""Brings a hint to one listener, now or later."""


def at_once(listener: Callable[[str], None], topic: str) -> None:
    """Bring it now."""
    listener(topic)


@dataclass
class MemoryRedis:
    """Keys with their ends, and who listens."""

    time: Callable[[], float]
    deliver: Deliver = at_once
    leases: dict[str, tuple[str, float]] = field(default_factory=dict)
    routes: dict[SandboxId, tuple[float, Route]] = field(default_factory=dict)
    listeners: dict[str, Callable[[str], None]] = field(default_factory=dict)

    def flush(self) -> None:
        """Lose everything."""
        self.leases.clear()
        self.routes.clear()

    def holder(self, name: str) -> str | None:
        """Return who holds the lease now."""
        found = self.leases.get(name)
        return found[0] if found is not None and found[1] > self.time() else None

    def publish(self, topic: str, *, origin: str) -> None:
        """Tell every listener but the one it comes from."""
        for name, listener in list(self.listeners.items()):
            if name != origin:
                self.deliver(listener, topic)


class MemoryLeaseStore:
    """Leases by compare-and-extend. A lease that cannot be confirmed is not held."""

    def __init__(self, redis: MemoryRedis, link: Link) -> None:
        self._redis = redis
        self._link = link

    async def acquire(self, name: str, holder: str, *, ttl_s: float) -> bool:
        """Take it if it is free or ours."""

        def work() -> bool:
            if self._redis.holder(name) not in (None, holder):
                return False
            self._redis.leases[name] = (holder, self._redis.time() + ttl_s)
            return True

        return await _or(self._link, work, default=False)

    async def extend(self, name: str, holder: str, *, ttl_s: float) -> bool:
        """Prolong it if it is ours."""

        def work() -> bool:
            if self._redis.holder(name) != holder:
                return False
            self._redis.leases[name] = (holder, self._redis.time() + ttl_s)
            return True

        return await _or(self._link, work, default=False)

    async def release(self, name: str, holder: str) -> None:
        """Give it up if it is ours."""

        def work() -> bool:
            if self._redis.holder(name) == holder:
                del self._redis.leases[name]
            return True

        await _or(self._link, work, default=False)


class MemoryRouteCache:
    """Routes in this process and in the shared memory."""

    def __init__(self, redis: MemoryRedis, link: Link) -> None:
        self._redis = redis
        self._link = link
        self._local: dict[SandboxId, tuple[float, Route]] = {}

    async def get(self, sandbox_id: SandboxId) -> Route | None:
        """Return the route from the nearest layer that knows one."""
        local = self._local.get(sandbox_id)
        if local is not None and self._redis.time() < local[0]:
            return local[1]

        def work() -> Route | None:
            shared = self._redis.routes.get(sandbox_id)
            return shared[1] if shared is not None and self._redis.time() < shared[0] else None

        found: Route | None = await _or(self._link, work, default=None)
        if found is not None:
            self._local[sandbox_id] = (self._redis.time() + LOCAL_TTL_S, found)
        return found

    async def put(self, route: Route) -> None:
        """Remember it in both layers unless a newer owner is known."""
        local = self._local.get(route.sandbox_id)
        if local is not None and local[1].epoch > route.epoch:
            return
        self._local[route.sandbox_id] = (self._redis.time() + LOCAL_TTL_S, route)

        def work() -> None:
            now = self._redis.time()
            known = self._redis.routes.get(route.sandbox_id)
            if known is None or known[0] <= now or known[1].epoch <= route.epoch:
                self._redis.routes[route.sandbox_id] = (now + SHARED_TTL_S, route)

        await _or(self._link, work, default=None)

    async def forget(self, sandbox_id: SandboxId) -> None:
        """Drop it from both layers."""
        self._local.pop(sandbox_id, None)
        await _or(self._link, lambda: self._redis.routes.pop(sandbox_id, None), default=None)


class MemoryWakeUps:
    """Hints between the tasks of one process and between processes."""

    def __init__(self, redis: MemoryRedis, link: Link, *, name: str) -> None:
        self._redis = redis
        self._link = link
        self._name = name
        # In the order of their making, so that equal runs wake in equal order.
        self._topics: dict[str, list[ref[Subscription]]] = {}
        redis.listeners[name] = self._wake

    async def publish(self, topic: str) -> None:
        """Wake this process at once, then the others."""
        self._wake(topic)
        await _or(self._link, lambda: self._redis.publish(topic, origin=self._name), default=None)

    def subscribe(self, topic: str) -> Subscription:
        """Begin to listen."""
        subscription = Subscription()
        heard = [known for known in self._topics.get(topic, ()) if known() is not None]
        self._topics[topic] = [*heard, ref(subscription)]
        return subscription

    async def is_healthy(self) -> bool:
        """Whether it answers."""
        return await _or(self._link, lambda: True, default=False)

    def close(self) -> None:
        """Hear nothing any more."""
        self._redis.listeners.pop(self._name, None)

    def _wake(self, topic: str) -> None:
        for known in self._topics.get(topic, ()):
            subscription = known()
            if subscription is not None:
                subscription.wake()


async def _or(link: Link, work: Callable[[], T], *, default: T) -> T:
    try:
        return await link.call(work)
    except StoreUnavailable:
        return default
