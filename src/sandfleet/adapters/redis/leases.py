"""The leader's lease in Redis (port: `ports.coordination.LeaseStore`)."""

from __future__ import annotations

from sandfleet.adapters.redis.connection import RedisConnection

# Taking what is already ours is success: the answer to the first attempt may have been lost.
_ACQUIRE = """
local holder = redis.call('GET', KEYS[1])
if not holder or holder == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 1
end
return 0
"""
_EXTEND = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
"""


class RedisLeaseStore:
    """Leases by compare-and-extend. A lease that cannot be confirmed is not held."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._acquire = connection.client.register_script(_ACQUIRE)
        self._extend = connection.client.register_script(_EXTEND)
        self._release = connection.client.register_script(_RELEASE)

    async def acquire(self, name: str, holder: str, *, ttl_s: float) -> bool:
        """Take it if it is free or ours."""
        arguments: list[str | int] = [holder, _milliseconds(ttl_s)]
        taken = await self._connection.call(
            lambda client: self._acquire(keys=[_key(name)], args=arguments), default=0
        )
        return bool(taken)

    async def extend(self, name: str, holder: str, *, ttl_s: float) -> bool:
        """Prolong it if it is ours."""
        arguments: list[str | int] = [holder, _milliseconds(ttl_s)]
        extended = await self._connection.call(
            lambda client: self._extend(keys=[_key(name)], args=arguments), default=0
        )
        return bool(extended)

    async def release(self, name: str, holder: str) -> None:
        """Give it up if it is ours."""
        await self._connection.call(lambda client: self._release(keys=[_key(name)], args=[holder]), default=0)


def _key(name: str) -> str:
    return f"sandfleet:lease:{name}"


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))
