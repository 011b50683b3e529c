"""Workers, organisations, keys, idempotency, secrets and migrations in a real PostgreSQL."""

from __future__ import annotations

import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.migrate import migrate
from sandfleet.adapters.postgres.rollout_tables import metadata
from sandfleet.adapters.postgres.sealing import SealBroken, Sealer
from sandfleet.adapters.postgres.wiring import PostgresStores, open_stores
from sandfleet.local.embedded_postgres import RunningPostgres
from sandfleet.model.errors import StoreUnavailable
from sandfleet.testing.builders import ORGANISATION, a_worker, an_organisation

MASTER_SECRET = "5a" * 32
SCOPE = (ORGANISATION, "POST", "/api/sandboxes", "key-1")


async def test_a_fleet_secret_is_the_same_for_all_and_sealed(stores: PostgresStores) -> None:
    got = await asyncio.gather(
        *(stores.secrets.get_or_create("signing", bytes([at]) * 32) for at in range(8))
    )
    assert len(set(got)) == 1
    rows = await stores.database.statement(
        lambda connection: connection.exec_driver_sql("SELECT sealed FROM fleet_secrets")
    )
    assert got[0] not in rows.scalar_one()


def test_sealed_bytes_open_only_in_their_place_under_their_secret() -> None:
    sealed = Sealer(MASTER_SECRET).seal(b"plain", context="here")
    assert Sealer(MASTER_SECRET).open(sealed, context="here") == b"plain"
    for sealer, broken, context in (
        (Sealer(MASTER_SECRET), sealed, "there"),
        (Sealer("00" * 32), sealed, "here"),
        (Sealer(MASTER_SECRET), sealed[:-1], "here"),
        (Sealer(MASTER_SECRET), b"\x02" + sealed[1:], "here"),
    ):
        with pytest.raises(SealBroken):
            sealer.open(broken, context=context)


async def test_many_replicas_may_migrate_at_once(empty_postgres_url: str) -> None:
    databases = [Database(empty_postgres_url, pool_max=1) for _ in range(5)]
    await asyncio.gather(*(migrate(database) for database in databases))
    await migrate(databases[0])
    async with databases[0].engine.connect() as connection:
        assert await connection.run_sync(_differences) == []
    for database in databases:
        await database.close()


def _differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, metadata))


async def test_a_restart_of_postgresql_costs_an_error_at_most(
    stores: PostgresStores, postgres_server: RunningPostgres
) -> None:
    await stores.organisations.create(an_organisation())
    await asyncio.gather(*(stores.organisations.get(ORGANISATION) for _ in range(5)))
    await asyncio.to_thread(postgres_server.kill)
    with pytest.raises(StoreUnavailable):
        await stores.organisations.get(ORGANISATION)
    assert not await stores.database.is_healthy()
    await asyncio.to_thread(postgres_server.restart)
    # Dead connections of the pool are not seen by the caller, nor by a compare-and-set.
    assert (await stores.organisations.get(ORGANISATION)).name == "first"
    await stores.workers.register(a_worker())


async def test_nobody_listening_is_unavailable() -> None:
    nowhere = open_stores("postgresql://u:p@127.0.0.1:1/x", master_secret=MASTER_SECRET)
    with pytest.raises(StoreUnavailable):
        await nowhere.terms.current_term()
    await nowhere.database.close()
