"""Operations in a real PostgreSQL: the lease's token guards every write."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from sandfleet.adapters.postgres.wiring import PostgresStores
from sandfleet.lifecycle.sandbox import SandboxEvent, advance
from sandfleet.model.errors import NotFound, StaleLease, StaleVersion
from sandfleet.model.ids import OperationId
from sandfleet.model.operation import Operation, OperationKind, OperationState
from sandfleet.model.sandbox import SandboxState
from sandfleet.testing.builders import (
    NOON,
    ORGANISATION,
    a_lease,
    a_sandbox,
    a_transition,
    an_operation,
    an_organisation,
)


async def begin(stores: PostgresStores, operation: Operation | None = None) -> Operation:
    """Insert the usual sandbox with its operation; return the operation as stored."""
    await stores.organisations.create(an_organisation())
    operation = operation or an_operation()
    await stores.sandboxes.create(a_sandbox(), operation, a_transition())
    return await stores.operations.get(operation.id)


def expired(**changes: object) -> Operation:
    """Return an operation whose lease is over when it is inserted."""
    return an_operation(lease=a_lease(lasts_s=-1), **changes)


async def test_every_field_comes_back_and_times_are_the_databases(stores: PostgresStores) -> None:
    written = an_operation(
        arguments={"a": [1, None]}, progress={"ü": True}, error_code="x", error_message="y", deadline_s=60
    )
    stored = await begin(stores, written)
    assert stored.lease
    assert replace(stored, lease=written.lease, deadline_at=written.deadline_at) == written
    assert (stored.lease.holder, stored.lease.token) == ("replica-1", 1)
    # 60 and 15 seconds from the database's now, whatever the writer's clock says (it says 2030).
    assert timedelta(seconds=44) < stored.deadline_at - stored.lease.deadline_at < timedelta(seconds=46)


async def test_a_write_needs_the_token(stores: PostgresStores) -> None:
    stored = await begin(stores)
    assert stored.lease
    saved = await stores.operations.save(replace(stored, step="start", progress={"n": 1}))
    assert (saved.step, saved.progress) == ("start", {"n": 1})
    stale = replace(saved, lease=replace(stored.lease, token=2), step="else")
    for write in (
        stores.operations.save(stale),
        stores.operations.extend(stale, lease_s=5),
        stores.operations.finish(replace(stale, state=OperationState.FAILED)),
    ):
        with pytest.raises(StaleLease):
            await write
    assert (await stores.operations.get(stored.id)).step == "start"


async def test_only_what_nobody_holds_is_taken_and_by_one_only(stores: PostgresStores) -> None:
    await begin(stores, expired())
    taken = await asyncio.gather(
        *(stores.operations.take_over(holder=f"replica-{number}", lease_s=30) for number in range(8))
    )
    (mine,) = [operation for batch in taken for operation in batch]
    assert mine.lease
    assert mine.lease.token == 2
    assert await stores.operations.take_over(holder="late", lease_s=30) == []


async def test_who_was_taken_over_from_can_write_no_more(stores: PostgresStores) -> None:
    before = await begin(stores, expired())
    await stores.operations.take_over(holder="replica-2", lease_s=30)
    with pytest.raises(StaleLease):
        await stores.operations.save(before)


async def test_a_lease_let_go_is_taken_at_once(stores: PostgresStores) -> None:
    await begin(stores)
    assert await stores.operations.take_over(holder="replica-2", lease_s=30) == []
    assert await stores.operations.let_go(holder="replica-1") == 1
    assert len(await stores.operations.take_over(holder="replica-2", lease_s=30)) == 1


async def test_extending_brings_news_of_cancellation_and_deadline(stores: PostgresStores) -> None:
    stored = await begin(stores, an_operation(deadline_s=-1))
    sandbox = advance(a_sandbox(), SandboxEvent.KILL_REQUESTED, at=NOON)
    destroy = an_operation("op-destroy", kind=OperationKind.DESTROY, step="stop")
    await stores.sandboxes.kill(sandbox, destroy, a_transition("kill_requested"))
    extended = await stores.operations.extend(stored, lease_s=30)
    assert extended.cancel_requested
    assert extended.is_overdue


async def test_the_end_is_one_transaction_with_all_that_it_means(stores: PostgresStores) -> None:
    stored = await begin(stores)
    failed = advance(a_sandbox(), SandboxEvent.CREATE_FAILED, at=NOON)
    destroy = an_operation("op-destroy", kind=OperationKind.DESTROY, step="stop")
    ended = replace(stored, state=OperationState.FAILED, error_code="x", finished_at=NOON)
    await stores.operations.finish(
        ended, sandbox=failed, transition=a_transition("create_failed"), follow_up=destroy, releases=True
    )
    assert (await stores.sandboxes.get(ORGANISATION, failed.id)) == failed
    assert [one.id for one in await stores.operations.open_for(failed.id)] == ["op-destroy"]
    log = await stores.sandboxes.transitions(ORGANISATION, failed.id)
    assert [row.event for row in log] == ["create_failed", "created"]


async def test_an_end_that_meets_a_newer_row_writes_nothing(stores: PostgresStores) -> None:
    stored = await begin(stores)
    await stores.sandboxes.save(advance(a_sandbox(), SandboxEvent.KILL_REQUESTED, at=NOON), None)
    running = advance(a_sandbox(), SandboxEvent.BOOTED, at=NOON)
    ended = replace(stored, state=OperationState.SUCCEEDED)
    with pytest.raises(StaleVersion):
        await stores.operations.finish(ended, sandbox=running, transition=a_transition("booted"))
    assert (await stores.operations.get(stored.id)).state is OperationState.RUNNING
    assert len(await stores.sandboxes.transitions(ORGANISATION, running.id)) == 1


async def test_kills_and_ends_at_once_do_not_deadlock(stores: PostgresStores) -> None:
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
            timeout=0.9,
        )
        assert sum(isinstance(result, StaleVersion) for result in results) == 1


async def test_an_unknown_operation_is_not_found(stores: PostgresStores) -> None:
    with pytest.raises(NotFound):
        await stores.operations.get(OperationId("op-none"))


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
