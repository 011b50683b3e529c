"""Sandboxes in a real PostgreSQL: what was written comes back, and no two writers both win."""

from __future__ import annotations

import asyncpg
import pytest
from sqlalchemy.dialects import postgresql

from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.presence import ON_WORKER, PRESENCE
from sandfleet.adapters.postgres.wiring import PostgresStores
from sandfleet.model.errors import QuotaExceeded
from sandfleet.model.ids import OrganisationId
from sandfleet.model.organisation import Quotas
from sandfleet.model.sandbox import Sandbox
from sandfleet.testing.builders import (
    ORGANISATION,
    a_sandbox,
    a_transition,
    an_operation,
    an_organisation,
)

OTHER = OrganisationId("00000000-0000-4000-8000-000000000002")
SECRET = "do-not-show-me"


async def create(stores: PostgresStores, name: str, **changes: object) -> Sandbox:
    """Insert a sandbox with its create operation."""
    sandbox = a_sandbox(name, **changes)
    operation = an_operation(f"op-{name}", sandbox=name, organisation_id=sandbox.organisation_id)
    log = a_transition(sandbox_id=sandbox.id, organisation_id=sandbox.organisation_id)
    await stores.sandboxes.create(sandbox, operation, log)
    return sandbox


@pytest.fixture(autouse=True)
async def _organisation(stores: PostgresStores) -> None:
    await stores.organisations.create(an_organisation())


async def test_environment_variables_are_not_readable_in_the_table(
    stores: PostgresStores, postgres_url: str
) -> None:
    await create(stores, "sb-one", envs={"TOKEN": SECRET})
    database = Database(postgres_url, pool_max=1)
    rows = await database.statement(
        lambda connection: connection.exec_driver_sql("SELECT sandboxes::text FROM sandboxes")
    )
    assert SECRET not in rows.scalar_one()
    assert SECRET.encode().hex() not in str(rows)
    await database.close()


@pytest.mark.parametrize(
    "quotas", [Quotas(vcpu=2), Quotas(memory_mib=2048), Quotas(disk_mib=2 * 20480)], ids=str
)
async def test_each_quota_counts_its_own_amount(stores: PostgresStores, quotas: Quotas) -> None:
    await stores.organisations.change(ORGANISATION, name=None, quotas=quotas, caps=None)
    await create(stores, "sb-1")
    await create(stores, "sb-2")
    with pytest.raises(QuotaExceeded):
        await create(stores, "sb-3")


_PRESENCE = PRESENCE.params(worker="wk-one").compile(
    dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True}
)


@pytest.mark.parametrize(
    ("text", "arguments"), [(ON_WORKER.text, ["wk-one"]), (str(_PRESENCE), [])], ids=["on_worker", "presence"]
)
async def test_what_is_on_a_worker_is_found_without_a_look_at_every_sandbox(
    postgres_url: str, text: str, arguments: list[str]
) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("SET enable_seqscan = off")  # of so few rows it would read all
    plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {text}", *arguments))
    await connection.close()
    assert "sandboxes_worker" in plan, plan
    assert "Seq Scan on sandboxes" not in plan, plan
