"""Reads of single rows that share a statement when many are asked for at the same time.

# Facts
A round trip costs a replica several times what the rest of a read costs, however many rows come back.

# Design
While a statement is under way, whoever asks joins the round that waits for its turn, and its first reader
sends one statement for all of them. No reader waits for company: with a turn free, a read is sent as
soon as all that could run beside it has run. A statement that is late gives its turn away, so that a
connection that hangs does not stop all reads; but no more than `AT_ONCE` are under way.

Rule 1: a statement is sent after all of its readers have asked, so none is told anything older than
what was committed when it asked. Nothing is kept for later readers.
Rule 2: a failure is every reader's of the round. If its first reader is cancelled, the others ask
again, each for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Hashable, Mapping
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

AT_ONCE = 2
LATE_AFTER_S = 0.05
"""Many times what a statement takes, and less than anybody notices."""
KEYS_MAX = 200


class _Abandoned(Exception):
    """Who would have sent the statement was cancelled."""


class _Round(Generic[K, V]):
    """The readers of one statement; each waits with a future of its own, so each may leave."""

    def __init__(self, key: K) -> None:
        self.keys = {key}
        self._readers: list[tuple[K, asyncio.Future[V | None]]] = []

    def join(self, key: K) -> asyncio.Future[V | None]:
        reader: asyncio.Future[V | None] = asyncio.get_running_loop().create_future()
        self.keys.add(key)
        self._readers.append((key, reader))
        return reader

    def settle(self, found: Mapping[K, V]) -> None:
        for key, reader in self._readers:
            if not reader.done():
                reader.set_result(found.get(key))

    def fail(self, error: BaseException) -> None:
        for _, reader in self._readers:
            if not reader.done():
                reader.set_exception(error if isinstance(error, Exception) else _Abandoned())


class _Turns:
    """Admits one at a time, and the next as well when the one before is late; never more than `AT_ONCE`."""

    def __init__(self, late_after_s: float) -> None:
        self._late_after_s = late_after_s
        self._all = asyncio.Semaphore(AT_ONCE)
        self._punctual = asyncio.Semaphore(1)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        is_late = False

        def give_away() -> None:
            nonlocal is_late
            is_late = True
            self._punctual.release()

        async with self._all:
            await self._punctual.acquire()
            patience = asyncio.get_running_loop().call_later(self._late_after_s, give_away)
            try:
                yield
            finally:
                patience.cancel()
                if not is_late:
                    self._punctual.release()


class SharedReads(Generic[K, V]):
    """Reads values by key with `read`, which returns those that exist of the keys it is given."""

    def __init__(
        self,
        read: Callable[[Collection[K]], Awaitable[Mapping[K, V]]],
        *,
        late_after_s: float = LATE_AFTER_S,
    ) -> None:
        self._read = read
        self._turns = _Turns(late_after_s)
        self._waiting: _Round[K, V] | None = None

    async def get(self, key: K) -> V | None:
        """Return what is there now, or None."""
        joined = self._waiting
        if joined is not None and len(joined.keys) < KEYS_MAX:
            try:
                return await joined.join(key)
            except _Abandoned:
                pass
        return await self._lead(_Round(key), key)

    async def _lead(self, mine: _Round[K, V], key: K) -> V | None:
        self._waiting = mine
        try:
            async with self._turns.turn():
                await asyncio.sleep(0)
                self._close(mine)
                found = await self._read(mine.keys)
        except BaseException as error:
            self._close(mine)
            mine.fail(error)
            raise
        mine.settle(found)
        return found.get(key)

    def _close(self, mine: _Round[K, V]) -> None:
        if self._waiting is mine:
            self._waiting = None
