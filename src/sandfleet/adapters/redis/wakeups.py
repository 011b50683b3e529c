"""Hints between tasks and replicas (port: `ports.coordination.WakeUps`).

A hint reaches the tasks of this process directly and the other replicas through one
Redis channel that carries the topic. Whoever listens also wakes by itself once a
second, so a hint that Redis lost costs a second.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from weakref import WeakSet

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from sandfleet.adapters.redis.connection import CALL_TIMEOUT_S, RedisConnection
from sandfleet.ports.clock import Clock

CHANNEL = "sandfleet:hints"
FALLBACK_S = 1.0
_RECONNECT_S = 0.5
_POLL_S = 5.0

_log = structlog.get_logger(__name__)


class Subscription:
    """An iterator of hints for one topic. It listens from its making, not from its first use."""

    def __init__(self) -> None:
        self._hint = asyncio.Event()

    def wake(self) -> None:
        """Let the listener run."""
        self._hint.set()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(FALLBACK_S):
                await self._hint.wait()
        self._hint.clear()

    async def aclose(self) -> None:
        """Nothing to undo: who is not referenced any more is not woken any more."""


class RedisWakeUps:
    """Hints by events in this process and by Redis between processes. `run` listens."""

    def __init__(self, connection: RedisConnection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._origin = secrets.token_hex(8)
        # Weak, so that whoever stops listening has nothing to undo.
        self._subscriptions: dict[str, WeakSet[Subscription]] = {}
        self._live_topics = 0

    async def publish(self, topic: str) -> None:
        """Wake this process at once, then the others."""
        self._wake(topic)
        message = f"{self._origin} {topic}"
        await self._connection.call(lambda client: client.publish(CHANNEL, message), default=0)

    def subscribe(self, topic: str) -> Subscription:
        """Begin to listen."""
        subscription = Subscription()
        self._forget_idle_topics()
        self._subscriptions.setdefault(topic, WeakSet()).add(subscription)
        return subscription

    async def is_healthy(self) -> bool:
        """Say whether Redis answers."""
        return await self._connection.is_healthy()

    async def run(self) -> None:
        """Listen to the other replicas until cancelled; a lost connection is made again."""
        while True:
            try:
                await self._listen()
            except (RedisError, OSError, TimeoutError) as error:
                _log.debug("hints_interrupted", error=type(error).__name__)
            await self._clock.sleep(_RECONNECT_S)

    async def _listen(self) -> None:
        client: Redis = Redis.from_url(
            self._connection.url,
            socket_connect_timeout=CALL_TIMEOUT_S,
            decode_responses=True,
            health_check_interval=_POLL_S,
        )
        async with client, client.pubsub() as listener:
            await listener.subscribe(CHANNEL)
            self._wake_all()  # what was said while nobody listened is not known
            while True:
                message = await listener.get_message(ignore_subscribe_messages=True, timeout=_POLL_S)
                if message is not None:
                    self._received(str(message["data"]))

    def _received(self, message: str) -> None:
        origin, _, topic = message.partition(" ")
        if origin != self._origin:
            self._wake(topic)

    def _wake(self, topic: str) -> None:
        for subscription in self._subscriptions.get(topic, ()):
            subscription.wake()

    def _wake_all(self) -> None:
        for topic in self._subscriptions:
            self._wake(topic)

    def _forget_idle_topics(self) -> None:
        # Now and then, in proportion to what there is: each topic belongs to one sandbox and goes with it.
        if len(self._subscriptions) < 2 * self._live_topics + 64:
            return
        self._subscriptions = {topic: heard for topic, heard in self._subscriptions.items() if heard}
        self._live_topics = len(self._subscriptions)
