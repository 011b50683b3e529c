"""Workers, organisations, keys, idempotency, secrets and migrations in a real PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.migrate import migrate
from sandfleet.adapters.postgres.sealing import SealBroken, Sealer
from sandfleet.adapters.postgres.tables import metadata
from sandfleet.adapters.postgres.wiring import PostgresStores, open_stores
from sandfleet.local.embedded_postgres import RunningPostgres
from sandfleet.model.errors import Conflict, NotFound, StaleTerm, StoreUnavailable
from sandfleet.model.ids import KeyId, OrganisationId, SandboxId, WorkerId
from sandfleet.model.organisation import ApiKey, Caps, Quotas, Scope
from sandfleet.model.worker import WorkerState
from sandfleet.ports.stores import StoredAnswer
from sandfleet.testing.builders import NOON, ORGANISATION, a_worker, an_organisation

MASTER_SECRET = "5a" * 32
SCOPE = (ORGANISATION, "POST", "/api/sandboxes", "key-1")


async def test_a_worker_comes_back_as_it_said(stores: PostgresStores) -> None:
    worker = a_worker(
        worker_version="1", accelerator="tcg", cpu_model="max", memory_used_mib=5, cpu_percent=1.5
    )
    stored = (await stores.workers.register(worker)).worker
    assert stored.last_seen_at
    assert replace(stored, last_seen_at=None) == worker
    assert (await stores.workers.list()) == [stored]
    with pytest.raises(NotFound):
        await stores.workers.get(WorkerId("wk-none"))


async def test_a_late_heartbeat_changes_nothing_and_a_new_process_begins_anew(stores: PostgresStores) -> None:
    await stores.workers.register(a_worker(sequence=5, memory_used_mib=5))
    late = await stores.workers.register(a_worker(sequence=4, memory_used_mib=4))
    assert late.worker.memory_used_mib == 5
    fresh = await stores.workers.register(a_worker(instance_id="process-2", sequence=1, memory_used_mib=1))
    assert fresh.worker.memory_used_mib == 1


async def test_a_worker_becomes_silent_then_unreachable_and_comes_back(stores: PostgresStores) -> None:
    term = await stores.terms.raise_term("leader")
    await stores.workers.register(a_worker())
    mark, now = stores.workers.mark_absent, timedelta(0)
    assert await mark(WorkerState.SILENT, silent_for=timedelta(seconds=60), term=term) == []
    (silent,) = await mark(WorkerState.SILENT, silent_for=now, term=term)
    assert silent.state is WorkerState.SILENT
    (unreachable,) = await mark(WorkerState.UNREACHABLE, silent_for=now, term=term)
    assert unreachable.state is WorkerState.UNREACHABLE
    assert await mark(WorkerState.SILENT, silent_for=now, term=term) == []  # never back but by its own word
    back = await stores.workers.register(a_worker(sequence=2))
    assert (back.worker.state, back.worker.version) == (WorkerState.READY, 4)


async def test_an_old_leader_marks_and_quarantines_nothing(stores: PostgresStores) -> None:
    old = await stores.terms.raise_term("a")
    await stores.workers.register(a_worker())
    new = await stores.terms.raise_term("b")
    with pytest.raises(StaleTerm):
        await stores.workers.mark_absent(WorkerState.SILENT, silent_for=timedelta(0), term=old)
    with pytest.raises(StaleTerm):
        await stores.workers.set_quarantined(WorkerId("wk-one"), [SandboxId("sb-x")], term=old)
    assert (await stores.workers.get(WorkerId("wk-one"))).state is WorkerState.READY
    await stores.workers.set_quarantined(WorkerId("wk-one"), [SandboxId("sb-x")], term=new)
    answer = await stores.workers.register(a_worker(sequence=2))
    assert (answer.quarantined, answer.term) == (["sb-x"], new)


async def test_organisations_and_keys_come_back(stores: PostgresStores) -> None:
    organisation = replace(an_organisation(quotas=Quotas(1, 2, 3, 4)), caps=Caps(5, 6))
    await stores.organisations.create(organisation)
    assert await stores.organisations.get(ORGANISATION) == organisation
    with pytest.raises(Conflict) as taken:
        await stores.organisations.create(an_organisation("other-id"))
    assert taken.value.code == "name_taken"
    changed = await stores.organisations.change(ORGANISATION, name="new", quotas=None, caps=Caps())
    assert (changed.name, changed.quotas, changed.caps) == ("new", organisation.quotas, Caps())
    key = ApiKey(KeyId("k"), ORGANISATION, "n", "osb_12345678", frozenset(Scope), NOON)
    await stores.organisations.add_key(key, digest=b"d" * 32)
    assert await stores.organisations.find_keys("osb_12345678") == [(key, b"d" * 32)]
    with pytest.raises(NotFound):
        await stores.organisations.revoke_key(OrganisationId("another"), key.id)
    await stores.organisations.revoke_key(ORGANISATION, key.id)
    assert await stores.organisations.find_keys("osb_12345678") == []
    assert await stores.organisations.list_keys(ORGANISATION) == []


async def test_one_of_many_claims_does_the_work_and_the_answer_is_replayed(stores: PostgresStores) -> None:
    claims = await asyncio.gather(
        *(
            stores.idempotency.claim(
                SCOPE, body_digest=b"b", holder=f"h{at}", lease_s=30, resource={"sandbox": f"sb-{at}"}
            )
            for at in range(10)
        )
    )
    (mine,) = [claim for claim in claims if claim.is_mine]
    holder = mine.resource["sandbox"].replace("sb-", "h")
    assert {claim.resource["sandbox"] for claim in claims} == {mine.resource["sandbox"]}
    answer = StoredAnswer(201, {"X": "y"}, b"\x00\xff")
    await stores.idempotency.finish(SCOPE, holder=holder, answer=answer)
    again = await stores.idempotency.claim(SCOPE, body_digest=b"b", holder="z", lease_s=30, resource={})
    assert (again.answer, again.is_mine) == (answer, False)


async def test_a_left_claim_is_resumed_with_what_the_first_attempt_fixed(stores: PostgresStores) -> None:
    await stores.idempotency.claim(SCOPE, body_digest=b"b", holder="a", lease_s=0, resource={"id": 1})
    other_body = await stores.idempotency.claim(SCOPE, body_digest=b"c", holder="b", lease_s=0, resource={})
    assert (other_body.is_mine, other_body.body_digest) == (False, b"b")
    resumed = await stores.idempotency.claim(
        SCOPE, body_digest=b"b", holder="b", lease_s=30, resource={"id": 2}
    )
    assert (resumed.is_mine, resumed.resource) == (True, {"id": 1})
    # The first holder is too late to answer.
    await stores.idempotency.finish(SCOPE, holder="a", answer=StoredAnswer(200, {}, b""))
    read = await stores.idempotency.claim(SCOPE, body_digest=b"b", holder="c", lease_s=30, resource={})
    assert (read.is_mine, read.answer) == (False, None)


async def test_an_abandoned_claim_is_free(stores: PostgresStores) -> None:
    await stores.idempotency.claim(SCOPE, body_digest=b"b", holder="a", lease_s=30, resource={"id": 1})
    await stores.idempotency.abandon(SCOPE, holder="someone-else")
    await stores.idempotency.abandon(SCOPE, holder="a")
    again = await stores.idempotency.claim(
        SCOPE, body_digest=b"c", holder="b", lease_s=30, resource={"id": 2}
    )
    assert (again.is_mine, again.resource) == (True, {"id": 2})


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
