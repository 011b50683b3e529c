"""What every `ports.stores.OperationStore` keeps: the lease's token guards every write."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sandfleet.controlplane.dependencies import Stores
from sandfleet.lifecycle.sandbox import SandboxEvent, advance
from sandfleet.model.errors import NotFound, StaleLease, StaleVersion
from sandfleet.model.ids import OperationId, SandboxId
from sandfleet.model.operation import Operation, OperationKind, OperationState
from sandfleet.testing.builders import (
    NOON,
    ORGANISATION,
    a_lease,
    a_sandbox,
    a_transition,
    an_operation,
    an_organisation,
)
from sandfleet.testing.conformance.checking import Check, refusing


async def begin(stores: Stores, operation: Operation | None = None) -> Operation:
    """Insert the usual sandbox with its operation; return the operation as stored."""
    await stores.organisations.create(an_organisation())
    operation = operation or an_operation()
    await stores.sandboxes.create(a_sandbox(), operation, a_transition())
    return await stores.operations.get(operation.id)


def expired(**changes: Any) -> Operation:
    """Return an operation whose lease is over when it is inserted."""
    return an_operation(lease=a_lease(lasts_s=-1), **changes)


async def every_field_comes_back_and_times_are_the_databases(stores: Stores) -> None:
    written = an_operation(
        arguments={"a": [1, None]}, progress={"ü": True}, error_code="x", error_message="y", deadline_s=60
    )
    stored = await begin(stores, written)
    assert stored.lease
    assert replace(stored, lease=written.lease, deadline_at=written.deadline_at) == written
    assert (stored.lease.holder, stored.lease.token) == ("replica-1", 1)
    # 60 and 15 seconds from the database's now, whatever the writer's clock says (it says 2030).
    assert timedelta(seconds=44) < stored.deadline_at - stored.lease.deadline_at < timedelta(seconds=46)


async def many_are_read_at_once_and_what_is_not_there_is_left_out(stores: Stores) -> None:
    stored, none = await begin(stores), OperationId("op-none")
    assert await stores.operations.find([stored.id, none]) == {stored.id: stored}
    assert await stores.operations.find([]) == {}
    both = [stored.sandbox_id, SandboxId("sb-none")]
    assert await stores.operations.open_for_all(both) == {stored.sandbox_id: [stored]}
    await stores.operations.finish(replace(stored, state=OperationState.FAILED, finished_at=NOON))
    assert await stores.operations.open_for_all(both) == {}


async def a_write_needs_the_token(stores: Stores) -> None:
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
        with refusing(StaleLease):
            await write
    assert (await stores.operations.get(stored.id)).step == "start"


async def only_what_nobody_holds_is_taken_and_by_one_only(stores: Stores) -> None:
    await begin(stores, expired())
    taken = await asyncio.gather(
        *(stores.operations.take_over(holder=f"replica-{number}", lease_s=30) for number in range(8))
    )
    (mine,) = [operation for batch in taken for operation in batch]
    assert mine.lease
    assert mine.lease.token == 2
    assert await stores.operations.take_over(holder="late", lease_s=30) == []


async def who_was_taken_over_from_can_write_no_more(stores: Stores) -> None:
    before = await begin(stores, expired())
    await stores.operations.take_over(holder="replica-2", lease_s=30)
    with refusing(StaleLease):
        await stores.operations.save(before)


async def a_lease_let_go_is_taken_at_once(stores: Stores) -> None:
    await begin(stores)
    assert await stores.operations.take_over(holder="replica-2", lease_s=30) == []
    assert await stores.operations.let_go(holder="replica-1") == 1
    assert len(await stores.operations.take_over(holder="replica-2", lease_s=30)) == 1


async def extending_brings_news_of_cancellation_and_deadline(stores: Stores) -> None:
    stored = await begin(stores, an_operation(deadline_s=-1))
    sandbox = advance(a_sandbox(), SandboxEvent.KILL_REQUESTED, at=NOON)
    destroy = an_operation("op-destroy", kind=OperationKind.DESTROY, step="stop")
    await stores.sandboxes.kill(sandbox, destroy, a_transition("kill_requested"))
    extended = await stores.operations.extend(stored, lease_s=30)
    assert extended.cancel_requested
    assert extended.is_overdue


async def the_end_is_one_transaction_with_all_that_it_means(stores: Stores) -> None:
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


async def an_end_that_meets_a_newer_row_writes_nothing(stores: Stores) -> None:
    stored = await begin(stores)
    await stores.sandboxes.save(advance(a_sandbox(), SandboxEvent.KILL_REQUESTED, at=NOON), None)
    running = advance(a_sandbox(), SandboxEvent.BOOTED, at=NOON)
    ended = replace(stored, state=OperationState.SUCCEEDED)
    with refusing(StaleVersion):
        await stores.operations.finish(ended, sandbox=running, transition=a_transition("booted"))
    assert (await stores.operations.get(stored.id)).state is OperationState.RUNNING
    assert len(await stores.sandboxes.transitions(ORGANISATION, running.id)) == 1


async def an_unknown_operation_is_not_found(stores: Stores) -> None:
    with refusing(NotFound):
        await stores.operations.get(OperationId("op-none"))


CHECKS: tuple[Check, ...] = (
    every_field_comes_back_and_times_are_the_databases,
    many_are_read_at_once_and_what_is_not_there_is_left_out,
    a_write_needs_the_token,
    only_what_nobody_holds_is_taken_and_by_one_only,
    who_was_taken_over_from_can_write_no_more,
    a_lease_let_go_is_taken_at_once,
    extending_brings_news_of_cancellation_and_deadline,
    the_end_is_one_transaction_with_all_that_it_means,
    an_end_that_meets_a_newer_row_writes_nothing,
    an_unknown_operation_is_not_found,
)
