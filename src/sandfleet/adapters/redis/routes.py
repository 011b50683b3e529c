"""Routes of running sandboxes (port: `ports.coordination.RouteCache`).

Two layers: this process, for a moment, and Redis, for a minute. Both may be wrong; the
worker checks the epoch of every call, and "moved" or "not found" makes the caller forget.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from sandfleet.adapters.redis.connection import RedisConnection
from sandfleet.model.ids import SandboxId
from sandfleet.ports.clock import Clock
from sandfleet.ports.coordination import Route

LOCAL_TTL_S = 2.0
SHARED_TTL_S = 60
_LOCAL_MAX = 10_000

_PUT = """
local known = redis.call('HGET', KEYS[1], 'epoch')
if known and tonumber(known) > tonumber(ARGV[1]) then
  return 0
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'route', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""


class RedisRouteCache:
    """Routes in this process and in Redis."""

    def __init__(self, connection: RedisConnection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._put = connection.client.register_script(_PUT)
        self._local: OrderedDict[SandboxId, tuple[float, Route]] = OrderedDict()

    async def get(self, sandbox_id: SandboxId) -> Route | None:
        """Return the route from the nearest layer that knows one."""
        found = self._local.get(sandbox_id)
        if found is not None:
            until, route = found
            if self._clock.monotonic() < until:
                return route
            del self._local[sandbox_id]
        text = await self._connection.call(
            lambda client: client.hget(_key(sandbox_id), "route"), default=None
        )
        if text is None:
            return None
        route = msgspec.json.decode(text, type=Route)
        self._remember(route)
        return route

    async def put(self, route: Route) -> None:
        """Remember it in both layers unless a newer owner is known."""
        known = self._local.get(route.sandbox_id)
        if known is not None and known[1].epoch > route.epoch:
            return
        self._remember(route)
        arguments: list[str | int] = [route.epoch, msgspec.json.encode(route).decode(), SHARED_TTL_S]
        await self._connection.call(
            lambda client: self._put(keys=[_key(route.sandbox_id)], args=arguments), default=0
        )

    async def forget(self, sandbox_id: SandboxId) -> None:
        """Drop it from both layers."""
        self._local.pop(sandbox_id, None)
        await self._connection.call(lambda client: client.delete(_key(sandbox_id)), default=0)

    def _remember(self, route: Route) -> None:
        self._local[route.sandbox_id] = (self._clock.monotonic() + LOCAL_TTL_S, route)
        self._local.move_to_end(route.sandbox_id)
        if len(self._local) > _LOCAL_MAX:
            self._local.popitem(last=False)


def _key(sandbox_id: SandboxId) -> str:
    return f"sandfleet:route:{sandbox_id}"
