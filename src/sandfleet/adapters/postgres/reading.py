"""Single reads, on connections that are kept for them.

# Facts
To fetch a connection from the pool, to run a statement through SQLAlchemy and to give the connection back
costs a replica five times what the driver takes for the same read.

# Design
A statement is written with SQLAlchemy like all others, and turned into text once (`Query`). A few
connections are opened when they are first needed and stay; a read takes one, lets the driver run the text,
and puts it back. A connection on which anything failed is not used again, nor one that its server has closed
meanwhile: after a restart of PostgreSQL all of them are, which may be more than a read has attempts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import asyncpg
import msgspec
from sqlalchemy import Select
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

CLOSE_TIMEOUT_S = 2.0
_DIALECT = PGDialect_asyncpg()  # type: ignore[no-untyped-call]


class Columns(Protocol):
    """A row, by the names of its columns."""

    def __getitem__(self, name: str, /) -> Any:
        """Return the value of one column."""
        ...


class Query:
    """A statement as text, and the order of its parameters."""

    def __init__(self, statement: Select[Any]) -> None:
        compiled = statement.compile(dialect=_DIALECT)
        self.text = str(compiled)
        self._names = compiled.positiontup or ()
        self._constants = compiled.params

    def arguments(self, parameters: Mapping[str, Any]) -> list[Any]:
        """Return the values in the statement's order."""
        known = {**self._constants, **parameters}
        return [known[name] for name in self._names]


class ReadConnections:
    """At most `count` connections; who finds none free waits for `patience_s`, then TimeoutError."""

    def __init__(
        self, connect: Callable[[], Awaitable[asyncpg.Connection]], *, count: int, patience_s: float
    ) -> None:
        self._connect = connect
        self._free: list[asyncpg.Connection] = []
        self._turns = asyncio.Semaphore(count)
        self._patience_s = patience_s

    async def fetch(self, query: Query, parameters: Mapping[str, Any]) -> Sequence[Columns]:
        """Return the rows; JSON columns are decoded."""
        await self._turn()
        try:
            connection = self._open_one() or await self._opened()
            try:
                found: Sequence[Columns] = await connection.fetch(query.text, *query.arguments(parameters))
            except BaseException:
                connection.terminate()
                raise
            self._free.append(connection)
            return found
        finally:
            self._turns.release()

    async def close(self) -> None:
        """Close what is free; whoever still reads keeps what it reads with."""
        while self._free:
            connection = self._free.pop()
            try:
                await connection.close(timeout=CLOSE_TIMEOUT_S)
            except (asyncpg.PostgresError, OSError, TimeoutError):
                connection.terminate()

    async def _turn(self) -> None:
        if not self._turns.locked():  # to set a time limit costs as much as the turn
            await self._turns.acquire()
            return
        async with asyncio.timeout(self._patience_s):
            await self._turns.acquire()

    def _open_one(self) -> asyncpg.Connection | None:
        while self._free:
            connection = self._free.pop()
            if not connection.is_closed():
                return connection
        return None

    async def _opened(self) -> asyncpg.Connection:
        connection = await self._connect()
        try:
            await connection.set_type_codec(
                "jsonb", schema="pg_catalog", encoder=str, decoder=msgspec.json.decode, format="text"
            )
        except BaseException:
            connection.terminate()
            raise
        return connection
