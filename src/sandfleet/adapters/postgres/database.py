"""The connection pool, and the one place where a lost PostgreSQL becomes `StoreUnavailable`.

Rule 1: `statement()` runs single statements without a transaction around them: one
round trip each. `transaction()` is for what needs several, `read()` for what clients ask often.
Rule 2: a statement is repeated only when it certainly did not take effect, or when
the caller says that twice is as good as once (`repeatable`).
Rule 3: every wait is bounded: for a connection, for a lock, for an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import exc, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from sandfleet.adapters.postgres.reading import Columns, Query, ReadConnections
from sandfleet.model.errors import StoreUnavailable

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]

_ATTEMPTS_MAX = 4
_BACKOFF_S = 0.05
_CONNECT_TIMEOUT_S = 5.0
_POOL_TIMEOUT_S = 10.0
_STATEMENT_TIMEOUT_MS = 10_000
_LOCK_TIMEOUT_MS = 8_000
_STATEMENTS_CACHED = 256
_READERS_SHARE = 5
"""Of how many connections one is kept for single reads."""
_CONNECT_ARGUMENTS: Mapping[str, Any] = {
    "timeout": _CONNECT_TIMEOUT_S,
    "command_timeout": _STATEMENT_TIMEOUT_MS / 1000 + 2,
    "server_settings": {
        "application_name": "sandfleet",
        "timezone": "UTC",
        "jit": "off",
        "statement_timeout": str(_STATEMENT_TIMEOUT_MS),
        "lock_timeout": str(_LOCK_TIMEOUT_MS),
        "idle_in_transaction_session_timeout": str(_STATEMENT_TIMEOUT_MS),
    },
}

_NOT_EXECUTED = (
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.TooManyConnectionsError,
    asyncpg.LockNotAvailableError,
    ConnectionRefusedError,
)
"""PostgreSQL said, or never could say, that nothing was done."""
_UNAVAILABLE = (
    *_NOT_EXECUTED,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    OSError,
    TimeoutError,
)


class Database:
    """A bounded pool of connections to one PostgreSQL, and a few more of the same bound that only read."""

    def __init__(self, url: str, *, pool_max: int = 20) -> None:
        readers = max(1, pool_max // _READERS_SHARE)
        self.engine = _engine(url, pool_max=max(1, pool_max - readers))
        self._single = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._readers = ReadConnections(self._connect, count=readers, patience_s=_POOL_TIMEOUT_S)

    async def read(self, query: Query, parameters: Mapping[str, Any]) -> Sequence[Columns]:
        """Return the rows of a single statement that changes nothing."""
        return await self._attempt(lambda: self._readers.fetch(query, parameters), repeatable=True)

    async def statement(self, work: Work[T], *, repeatable: bool = False) -> T:
        """Run `work` outside a transaction: each of its statements is its own."""

        async def once() -> T:
            async with self._single.connect() as connection:
                return await work(connection)

        return await self._attempt(once, repeatable=repeatable)

    async def transact(self, work: Work[T], *, repeatable: bool = False) -> T:
        """Run `work` in one transaction; it may run again when nothing of it was committed."""

        async def once() -> T:
            async with self.engine.begin() as connection:
                return await work(connection)

        return await self._attempt(once, repeatable=repeatable)

    @asynccontextmanager
    async def transaction(self, *, patient: bool = False) -> AsyncIterator[AsyncConnection]:
        """Give a connection within a transaction; `patient` lifts the limits on waiting for locks."""
        try:
            async with self.engine.begin() as connection:
                if patient:
                    await connection.exec_driver_sql(
                        "SELECT set_config('statement_timeout', '0', true), "
                        "set_config('lock_timeout', '120000', true)"
                    )
                yield connection
        except Exception as error:
            if _is_unavailable(error):
                raise StoreUnavailable("PostgreSQL cannot be reached") from error
            raise

    async def is_healthy(self) -> bool:
        """Say whether PostgreSQL answers."""
        try:
            await self.statement(lambda connection: connection.exec_driver_sql("SELECT 1"))
        except StoreUnavailable:
            return False
        return True

    async def close(self) -> None:
        """Close every connection."""
        await self._readers.close()
        await self.engine.dispose()

    async def _connect(self) -> asyncpg.Connection:
        _, named = self.engine.dialect.create_connect_args(self.engine.url)
        return await asyncpg.connect(**{**named, **_CONNECT_ARGUMENTS})

    async def _attempt(self, once: Callable[[], Awaitable[T]], *, repeatable: bool) -> T:
        for attempt in range(_ATTEMPTS_MAX):
            try:
                return await once()
            except Exception as error:
                if not _is_unavailable(error):
                    raise
                may_repeat = repeatable or _had_no_effect(error)
                if not may_repeat or attempt == _ATTEMPTS_MAX - 1:
                    raise StoreUnavailable("PostgreSQL cannot be reached") from error
            await asyncio.sleep(_BACKOFF_S * 2**attempt)
        raise AssertionError("the last attempt returns or raises")


def _engine(url: str, *, pool_max: int) -> AsyncEngine:
    return create_async_engine(
        make_url(url).set(drivername="postgresql+asyncpg"),
        pool_size=pool_max,
        max_overflow=0,
        pool_timeout=_POOL_TIMEOUT_S,
        pool_use_lifo=True,
        # Rows carry sealed secrets: they stay out of error texts and logs.
        hide_parameters=True,
        connect_args={**_CONNECT_ARGUMENTS, "prepared_statement_cache_size": _STATEMENTS_CACHED},
    )


def _driver_error(error: BaseException) -> BaseException:
    """Return what asyncpg raised, from below SQLAlchemy's wrappers."""
    if isinstance(error, exc.DBAPIError) and error.orig is not None:
        return error.orig.__cause__ or error.orig
    return error


def _is_closed_connection(error: BaseException) -> bool:
    # asyncpg has no class of its own for it: the call was refused locally, nothing was sent. The second
    # comes while the server's last word has been read and the end of the connection has not.
    return (isinstance(error, asyncpg.InterfaceError) and "closed" in str(error)) or (
        isinstance(error, asyncpg.InternalClientError) and "cannot switch to state" in str(error)
    )


def _is_unavailable(error: BaseException) -> bool:
    if isinstance(error, exc.TimeoutError):
        return True
    cause = _driver_error(error)
    invalidated = isinstance(error, exc.DBAPIError) and error.connection_invalidated
    return invalidated or isinstance(cause, _UNAVAILABLE) or _is_closed_connection(cause)


def _had_no_effect(error: BaseException) -> bool:
    if isinstance(error, exc.TimeoutError):
        return False  # the wait for a connection was long enough already
    cause = _driver_error(error)
    return isinstance(cause, _NOT_EXECUTED) or _is_closed_connection(cause)
