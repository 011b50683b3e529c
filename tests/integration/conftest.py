"""Real servers for the integration tests: PostgreSQL and Valkey once per session, a database per test."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.postgres.migrate import migrate
from sandfleet.adapters.postgres.wiring import PostgresStores, open_stores
from sandfleet.adapters.redis.connection import RedisConnection
from sandfleet.adapters.redis.leases import RedisLeaseStore
from sandfleet.adapters.redis.routes import RedisRouteCache
from sandfleet.adapters.redis.wakeups import RedisWakeUps
from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.operations.fleet import Fleet
from sandfleet.controlplane.settings import ControlPlaneSettings
from sandfleet.controlplane.wiring import stores_of
from sandfleet.local.embedded_postgres import RunningPostgres, start_postgres
from sandfleet.local.embedded_valkey import RunningValkey, start_valkey
from sandfleet.testing.fake_move_client import FakeMoveClient
from sandfleet.testing.fake_worker_client import FakeWorkerClient

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


@dataclass
class Replicas:
    """Control-plane replicas over one PostgreSQL, one Valkey and the same fake workers."""

    postgres_url: str
    redis_url: str
    workers: FakeWorkerClient
    opened: AsyncExitStack
    movers: FakeMoveClient = field(init=False)
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of every replica that is made from now on."""

    def __post_init__(self) -> None:
        self.movers = FakeMoveClient(self.workers)

    def plane(self, name: str, **settings: Any) -> ControlPlane:
        """Return the parts of one replica."""
        stores = open_stores(self.postgres_url, master_secret=MASTER_SECRET)
        self.opened.push_async_callback(stores.database.close)
        clock = SystemClock()
        connection = RedisConnection(self.redis_url, clock)
        self.opened.push_async_callback(connection.close)
        return ControlPlane(
            settings=_settings(self, {**self.settings, **settings}),
            clock=clock,
            replica_id=name,
            stores=stores_of(stores),
            routes=RedisRouteCache(connection, clock),
            leases=RedisLeaseStore(connection),
            wake_ups=RedisWakeUps(connection, clock),
            worker_client=self.workers,
            move_client=self.movers,
            public_keys={"keys": []},
        )

    @asynccontextmanager
    async def replica(
        self, name: str, *, with_loops: bool = False, plane: ControlPlane | None = None
    ) -> AsyncIterator[Fleet]:
        """Run one replica within."""
        plane = plane or self.plane(name)
        assert isinstance(plane.wake_ups, RedisWakeUps)
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(plane.wake_ups.run())
            async with Fleet(plane).running(with_loops=with_loops) as fleet:
                yield fleet
            listening.cancel()


@pytest.fixture
async def replicas(postgres_url: str, redis_url: str) -> AsyncIterator[Replicas]:
    """Replicas on demand."""
    async with AsyncExitStack() as opened:
        yield Replicas(postgres_url, redis_url, FakeWorkerClient(), opened)


def _settings(replicas: Replicas, changes: dict[str, Any]) -> ControlPlaneSettings:
    given = {
        "postgres_url": SecretStr(replicas.postgres_url),
        "redis_url": SecretStr(replicas.redis_url),
        "master_secret": SecretStr(MASTER_SECRET),
        "bootstrap_key": SecretStr("bootstrap-key-of-tests"),
        "join_token": SecretStr("join-token-of-tests"),
        "loop_interval_s": 0.05,
        # Most tests run no loop that would take over what a pause of this process has lost.
        "operation_lease_s": 60,
    }
    return ControlPlaneSettings(**{**given, **changes})


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
