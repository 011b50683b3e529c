"""Operations in a real PostgreSQL: the lease's token guards every write."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import asyncpg

from sandfleet.adapters.postgres.wiring import PostgresStores
from sandfleet.lifecycle.sandbox import SandboxEvent, advance
from sandfleet.model.errors import StaleVersion
from sandfleet.model.operation import OperationKind, OperationState
from sandfleet.model.sandbox import SandboxState
from sandfleet.testing.builders import (
    NOON,
    ORGANISATION,
    a_sandbox,
    a_transition,
    an_operation,
    an_organisation,
)


async def hang_in_deadlocks(postgres_url: str) -> None:
    """Let a deadlock last: by itself PostgreSQL ends one after a second, and it would pass for slowness."""
    connection = await asyncpg.connect(postgres_url.replace("postgresql+asyncpg://", "postgresql://"))
    try:
        database = await connection.fetchval("SELECT current_database()")
        await connection.execute(f"ALTER DATABASE {database} SET deadlock_timeout = '10min'")
    finally:
        await connection.close()


async def test_kills_and_ends_at_once_do_not_deadlock(postgres_url: str, stores: PostgresStores) -> None:
    await hang_in_deadlocks(postgres_url)
    await stores.organisations.create(an_organisation())
    for number in range(20):
        name = f"sb-{number}"
        operation = an_operation(f"op-{name}", sandbox=name)
        await stores.sandboxes.create(a_sandbox(name), operation, a_transition())
        running = advance(a_sandbox(name), SandboxEvent.BOOTED, at=NOON)
        killed = advance(a_sandbox(name), SandboxEvent.KILL_REQUESTED, at=NOON)
        destroy = an_operation(f"op-destroy-{name}", sandbox=name, kind=OperationKind.DESTROY)
        results = await asyncio.wait_for(
            asyncio.gather(
                stores.operations.finish(
                    replace(operation, state=OperationState.SUCCEEDED),
                    sandbox=running,
                    transition=a_transition("booted"),
                ),
                stores.sandboxes.kill(killed, destroy, a_transition("kill_requested")),
                return_exceptions=True,
            ),
            timeout=60,
        )
        assert sum(isinstance(result, StaleVersion) for result in results) == 1


async def test_an_end_meets_renewals_and_activity_of_the_same_moment_and_loses_nothing(
    stores: PostgresStores,
) -> None:
    await stores.organisations.create(an_organisation())
    for number in range(30):
        name = f"sb-{number}"
        sandbox = a_sandbox(name, state=SandboxState.RUNNING)
        operation = an_operation(f"op-{name}", sandbox=name, kind=OperationKind.EXPIRE)
        await stores.sandboxes.create(sandbox, operation, a_transition())
        hibernating = advance(sandbox, SandboxEvent.IDLE_EXPIRED, at=NOON)
        later = NOON + timedelta(seconds=9)
        await asyncio.gather(
            *(stores.operations.extend(operation, lease_s=30) for _ in range(2)),
            stores.sandboxes.touch({sandbox.id: later}),
            stores.operations.finish(
                replace(operation, state=OperationState.SUCCEEDED),
                sandbox=hibernating,
                transition=a_transition("idle_expired", sandbox_id=sandbox.id),
            ),
            return_exceptions=True,
        )
        after = await stores.sandboxes.get_any(sandbox.id)
        ended = await stores.operations.get(operation.id)
        assert (after.state, ended.state) == (SandboxState.HIBERNATING, OperationState.SUCCEEDED)
        assert after.active_at in (NOON, later)
        assert [one.event for one in await stores.sandboxes.transitions(ORGANISATION, sandbox.id)] == [
            "idle_expired"
        ]
