"""Who led when: the terms table, watched from outside while everything around it fails."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from sandfleet.testing.histories.recorder import Recorder

_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the table."""

    number: int
    holder: str
    raised_at: float
    """Seconds of the machine's clock, which the database shares."""


@dataclass(slots=True)
class TermWatch:
    """All terms that were seen, by number."""

    terms: dict[int, Reading] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)

    def failover_s(self, hurt_at: float) -> float | None:
        """Return how long after a moment the next term was raised."""
        later = [one.raised_at for one in self.terms.values() if one.raised_at > hurt_at]
        return min(later) - hurt_at if later else None


async def read_term(url: str) -> Reading:
    """Return the newest term."""
    connection = await asyncpg.connect(url.replace("postgresql+asyncpg://", "postgresql://"), timeout=5)
    try:
        return await _read(connection)
    finally:
        await connection.close(timeout=5)


async def find_term(url: str) -> Reading | None:
    """Return the newest term; None while the database cannot be asked."""
    try:
        return await read_term(url)
    except Exception:  # noqa: BLE001 -- a database that is being killed breaks its driver in many ways
        return None


@contextmanager
def watching(url: str, history: Path) -> Iterator[TermWatch]:
    """Read the table often, and record each reading, until the block ends."""
    watch = TermWatch()
    thread = threading.Thread(target=lambda: asyncio.run(_watch(url, history, watch)))
    thread.start()
    try:
        yield watch
    finally:
        watch.ended.set()
        thread.join(timeout=30)


async def _watch(url: str, history: Path, watch: TermWatch) -> None:
    plain = url.replace("postgresql+asyncpg://", "postgresql://")
    with Recorder(history, "term-watch") as recorder:
        while not watch.ended.is_set():
            try:
                connection = await asyncpg.connect(plain, timeout=5)
            except Exception:  # noqa: BLE001 -- as above
                await asyncio.sleep(_EVERY_S)
                continue
            try:
                while not watch.ended.is_set():
                    call = recorder.invoke("read", "term")
                    async with asyncio.timeout(5):
                        reading = await _read(connection)
                    recorder.returned(call, f"{reading.number} {reading.holder}")
                    watch.terms[reading.number] = reading
                    await asyncio.sleep(_EVERY_S)
            except Exception:  # noqa: BLE001 -- as above; the call stays without an end, as it was
                await asyncio.sleep(_EVERY_S)
            finally:
                connection.terminate()


async def _read(connection: asyncpg.Connection) -> Reading:
    row = await connection.fetchrow(
        "SELECT number, coalesce(holder, '') AS holder, extract(epoch FROM raised_at) AS at FROM terms"
    )
    assert row is not None, "there is no term"
    return Reading(int(row["number"]), row["holder"], float(row["at"] or time.time()))
