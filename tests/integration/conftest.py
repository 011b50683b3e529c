"""Real servers for the integration tests: PostgreSQL and Valkey once per session, a database per test."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from sandfleet.adapters.postgres.migrate import migrate
from sandfleet.adapters.postgres.wiring import PostgresStores, open_stores
from sandfleet.local.embedded_postgres import RunningPostgres, start_postgres
from sandfleet.local.embedded_valkey import RunningValkey, start_valkey

MASTER_SECRET = "5a" * 32
TEMPLATE = "sandfleet_template"


@pytest.fixture(scope="session")
def server_dir() -> Iterator[Path]:
    """A directory that the servers' own users can reach."""
    path = Path(tempfile.mkdtemp(prefix="sf-integration-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(server_dir: Path) -> Iterator[RunningPostgres]:
    """PostgreSQL with a migrated template database."""
    with start_postgres(server_dir / "postgres") as server:
        asyncio.run(_prepare_template(server.url))
        yield server


@pytest.fixture(scope="session")
def valkey_server(server_dir: Path) -> Iterator[RunningValkey]:
    """Valkey, shared by the tests and flushed for each."""
    with start_valkey(server_dir / "valkey") as server:
        yield server


@pytest.fixture
async def postgres_url(postgres_server: RunningPostgres) -> AsyncIterator[str]:
    """The URL of a migrated, empty database of this test's own."""
    name = f"sf_{secrets.token_hex(6)}"
    await _administer(postgres_server.url, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    yield _database_url(postgres_server.url, name)
    await _administer(postgres_server.url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def empty_postgres_url(postgres_server: RunningPostgres) -> AsyncIterator[str]:
    """The URL of a database without any table."""
    name = f"sf_{secrets.token_hex(6)}"
    await _administer(postgres_server.url, f"CREATE DATABASE {name}")
    yield _database_url(postgres_server.url, name)
    await _administer(postgres_server.url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def redis_url(valkey_server: RunningValkey) -> str:
    """The URL of an empty Valkey."""
    async with Redis.from_url(valkey_server.url) as client:
        await client.flushall()
    return valkey_server.url


@pytest.fixture
async def stores(postgres_url: str) -> AsyncIterator[PostgresStores]:
    """The stores over this test's database."""
    opened = open_stores(postgres_url, master_secret=MASTER_SECRET)
    yield opened
    await opened.database.close()


async def _prepare_template(url: str) -> None:
    await _administer(url, f"CREATE DATABASE {TEMPLATE}")
    opened = open_stores(_database_url(url, TEMPLATE), master_secret=MASTER_SECRET)
    await migrate(opened.database)
    await opened.database.close()


async def _administer(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _database_url(url: str, name: str) -> str:
    return url.rsplit("/", 1)[0] + f"/{name}"
