"""Connections that are kept for reads: closed ones are passed over, what did not open is let go."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import asyncpg
import pytest
from sqlalchemy import select

from sandfleet.adapters.postgres.reading import Query, ReadConnections

_ONE = Query(select(1))


@dataclass
class FakeConnection:
    """As much of asyncpg's connection as reads use."""

    setup_failure: Exception | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    was_terminated: bool = False
    closed: bool = False

    async def set_type_codec(self, *_: Any, **__: Any) -> None:
        if self.setup_failure is not None:
            raise self.setup_failure

    async def fetch(self, *_: Any) -> list[Any]:
        if self.closed:
            raise asyncpg.InterfaceError("connection is closed")
        await self.gate.wait()
        return []

    def is_closed(self) -> bool:
        return self.closed

    def terminate(self) -> None:
        self.was_terminated = self.closed = True


class Opened:
    """Opens connections and remembers them."""

    def __init__(self, *failures: Exception | None) -> None:
        self.connections: list[FakeConnection] = []
        self._failures = list(failures)

    async def __call__(self) -> asyncpg.Connection:
        made = FakeConnection(self._failures.pop(0) if self._failures else None)
        self.connections.append(made)
        return cast(asyncpg.Connection, made)


async def test_after_a_restart_of_the_server_the_first_read_finds_an_open_connection() -> None:
    opened = Opened()
    reads = ReadConnections(opened, count=8, patience_s=5)
    under_way = [asyncio.create_task(reads.fetch(_ONE, {})) for _ in range(8)]
    while len(opened.connections) < 8:
        await asyncio.sleep(0)
    for connection in opened.connections:
        connection.gate.set()
    await asyncio.gather(*under_way)
    for connection in opened.connections:
        connection.closed = True
    again = asyncio.create_task(reads.fetch(_ONE, {}))
    while len(opened.connections) < 9 and not again.done():
        await asyncio.sleep(0)
    opened.connections[-1].gate.set()
    assert await again == []
    assert len(opened.connections) == 9


async def test_a_connection_that_could_not_be_set_up_is_not_left_open() -> None:
    opened = Opened(OSError("reset"))
    reads = ReadConnections(opened, count=1, patience_s=5)
    with pytest.raises(OSError, match="reset"):
        await reads.fetch(_ONE, {})
    assert opened.connections[0].was_terminated
