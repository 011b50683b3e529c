"""Single reads on connections of their own, against a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest
from sqlalchemy import bindparam, func, literal, select
from sqlalchemy.dialects.postgresql import JSONB

from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.reading import Query, ReadConnections
from sandfleet.adapters.postgres.tables import sandboxes
from sandfleet.adapters.postgres.wiring import PostgresStores
from sandfleet.model.errors import StoreUnavailable
from sandfleet.testing.builders import a_sandbox, a_transition, an_operation, an_organisation

_BACKEND = Query(select(func.pg_backend_pid().label("pid")))
_SLEEP = Query(select(func.pg_sleep(bindparam("seconds"))))


class Counted:
    """Opens connections and counts them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.opened: list[asyncpg.Connection] = []

    async def __call__(self) -> asyncpg.Connection:
        connection = await asyncpg.connect(self._url)
        self.opened.append(connection)
        return connection


async def backend(reads: ReadConnections) -> int:
    (row,) = await reads.fetch(_BACKEND, {})
    return int(row["pid"])


async def test_values_keep_their_order_and_json_is_decoded(postgres_url: str) -> None:
    reads = ReadConnections(Counted(postgres_url), count=1, patience_s=5)
    document: dict[str, Any] = {"a": [1, "ä", None]}
    query = Query(
        select(
            bindparam("second", type_=sandboxes.c.memory_mib.type).label("b"),
            bindparam("first", type_=sandboxes.c.id.type).label("a"),
            literal(json.dumps(document)).cast(JSONB).label("document"),
        ).limit(bindparam("limit"))
    )
    (row,) = await reads.fetch(query, {"first": "1", "second": 2, "limit": 3})
    assert (row["a"], row["b"], row["document"]) == ("1", 2, document)
    await reads.close()


async def test_a_connection_stays_and_no_more_than_the_bound_are_opened(postgres_url: str) -> None:
    connect = Counted(postgres_url)
    reads = ReadConnections(connect, count=2, patience_s=30)
    assert await backend(reads) == await backend(reads)
    seen = await asyncio.gather(*(backend(reads) for _ in range(20)))
    assert len(set(seen)) == len(connect.opened) == 2
    await reads.close()
    assert all(connection.is_closed() for connection in connect.opened)


async def test_who_finds_none_free_waits_for_so_long(postgres_url: str) -> None:
    reads = ReadConnections(Counted(postgres_url), count=1, patience_s=0.05)
    slow = asyncio.create_task(reads.fetch(_SLEEP, {"seconds": 60.0}))
    while not reads._turns.locked():
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await backend(reads)
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    await backend(reads)
    await reads.close()


@pytest.mark.parametrize("way", ["error", "cancelled"])
async def test_a_connection_on_which_something_failed_is_not_used_again(postgres_url: str, way: str) -> None:
    connect = Counted(postgres_url)
    reads = ReadConnections(connect, count=1, patience_s=5)
    before = await backend(reads)
    if way == "error":
        with pytest.raises(asyncpg.PostgresError):
            await reads.fetch(Query(select(1 / func.length(""))), {})
    else:
        slow = asyncio.create_task(reads.fetch(_SLEEP, {"seconds": 60.0}))
        while not reads._turns.locked():
            await asyncio.sleep(0)
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
    assert await backend(reads) != before
    assert connect.opened[0].is_closed()
    await reads.close()


async def test_a_read_sees_what_was_written_a_moment_ago(stores: PostgresStores) -> None:
    organisation = an_organisation()
    await stores.organisations.create(organisation)
    made = [a_sandbox(f"sb-{number}") for number in range(20)]
    for sandbox in made:
        operation = an_operation(f"op-{sandbox.id}", sandbox=sandbox.id)
        log = a_transition(sandbox_id=sandbox.id)
        await stores.sandboxes.create(sandbox, operation, log)
        assert await stores.sandboxes.get(organisation.id, sandbox.id) == sandbox
    found = await asyncio.gather(*(stores.sandboxes.get(organisation.id, one.id) for one in made))
    assert found == made


async def test_a_row_that_changed_in_any_column_is_another_sandbox(
    stores: PostgresStores, postgres_url: str
) -> None:
    organisation = an_organisation()
    await stores.organisations.create(organisation)
    sandbox = a_sandbox()
    await stores.sandboxes.create(sandbox, an_operation(sandbox=sandbox.id), a_transition())
    writer = await asyncpg.connect(postgres_url)
    for column, value in (("active_at", "now()"), ("tags", '\'{"a": "b"}\''), ("port", "81")):
        before = await stores.sandboxes.get(organisation.id, sandbox.id)
        assert await stores.sandboxes.get(organisation.id, sandbox.id) is before
        await writer.execute(f"UPDATE sandboxes SET {column} = {value}")  # without a new version
        after = await stores.sandboxes.get(organisation.id, sandbox.id)
        assert getattr(after, column) != getattr(before, column)
    await writer.close()


async def test_what_is_sealed_is_opened_for_each_reader(stores: PostgresStores) -> None:
    organisation = an_organisation()
    await stores.organisations.create(organisation)
    sandbox = a_sandbox(envs={"PASSWORD": "x"})
    await stores.sandboxes.create(sandbox, an_operation(sandbox=sandbox.id), a_transition())
    seen = [await stores.sandboxes.get(organisation.id, sandbox.id) for _ in range(2)]
    assert seen == [sandbox, sandbox]
    assert seen[0] is not seen[1]
    assert not stores.sandboxes._rows._kept


async def test_no_more_rows_are_kept_than_the_bound(
    stores: PostgresStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandfleet.adapters.postgres.sandbox_reads.KEPT_MAX", 2)
    organisation = an_organisation()
    await stores.organisations.create(organisation)
    for number in range(4):
        sandbox = a_sandbox(f"sb-{number}")
        operation = an_operation(f"op-{number}", sandbox=sandbox.id)
        await stores.sandboxes.create(sandbox, operation, a_transition(sandbox_id=sandbox.id))
        await stores.sandboxes.get(organisation.id, sandbox.id)
        assert len(stores.sandboxes._rows._kept) <= 2


async def test_a_lost_connection_is_not_seen_by_a_reader(stores: PostgresStores, postgres_url: str) -> None:
    await stores.organisations.create(an_organisation())
    other = await asyncpg.connect(postgres_url)
    for passes in range(12):  # the end is heard of before, while and after the next read is sent
        reader = await stores.database.read(_BACKEND, {})
        await other.execute("SELECT pg_terminate_backend($1)", reader[0]["pid"])
        for _ in range(passes % 4):
            await asyncio.sleep(0)
        assert await stores.database.read(_BACKEND, {}) != reader
    await other.close()


async def test_a_read_of_a_store_that_is_away_says_so() -> None:
    database = Database("postgresql://u:p@127.0.0.1:1/x", pool_max=2)
    with pytest.raises(StoreUnavailable):
        await database.read(_BACKEND, {})
    await database.close()
