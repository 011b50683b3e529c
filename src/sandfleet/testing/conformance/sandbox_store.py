"""What every `ports.stores.SandboxStore` keeps: what was written comes back, and no two writers both win."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

from sandfleet.controlplane.dependencies import Stores
from sandfleet.lifecycle.sandbox import SandboxEvent, advance
from sandfleet.model.errors import NotFound, QuotaExceeded, StaleTerm, StaleVersion
from sandfleet.model.ids import OperationId, OrganisationId, SandboxId
from sandfleet.model.operation import OperationKind, OperationState
from sandfleet.model.organisation import Quotas
from sandfleet.model.resources import Resources
from sandfleet.model.sandbox import SandboxState, StopReason
from sandfleet.model.scaling import Scaling
from sandfleet.ports.stores import SandboxFilter
from sandfleet.testing.builders import (
    NOON,
    ORGANISATION,
    a_sandbox,
    a_transition,
    a_worker,
    an_operation,
    an_organisation,
)
from sandfleet.testing.conformance.checking import Check, create, refusing

OTHER = OrganisationId("00000000-0000-4000-8000-000000000002")
SEALED = "do-not-show-me"


async def every_field_comes_back_as_it_was_written(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    await stores.workers.register(a_worker())
    sandbox = a_sandbox(
        "sb-full",
        worker_id=a_worker().id,
        epoch=3,
        resources=Resources(2048, 2, 40960),
        timeout_s=300,
        port=8080,
        network_enabled=False,
        envs={"TOKEN": SEALED, "Ünïcode": "✓"},
        metadata={"a": "b"},
        alias="mine",
        template_version="digest",
        active_at=NOON + timedelta(seconds=1),
        started_at=NOON + timedelta(microseconds=123456),
        stopped_at=NOON + timedelta(seconds=3),
        deadline_at=NOON + timedelta(seconds=4),
        stop_reason=StopReason.CRASH,
        error_message="why",
        scaling=Scaling(is_locked=True, is_automatic=True, memory_min_mib=1024, memory_max_mib=4096),
    )
    await stores.sandboxes.create(
        sandbox, an_operation(sandbox="sb-full"), a_transition(sandbox_id=sandbox.id)
    )
    assert await stores.sandboxes.get(ORGANISATION, sandbox.id) == sandbox
    (log,) = await stores.sandboxes.transitions(ORGANISATION, sandbox.id)
    assert replace(log, id=None) == a_transition(sandbox_id=sandbox.id)


async def another_organisation_does_not_see_it(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    sandbox = await create(stores, "sb-one")
    with refusing(NotFound):
        await stores.sandboxes.get(OTHER, sandbox.id)
    assert await stores.sandboxes.transitions(OTHER, sandbox.id) == []
    assert await stores.sandboxes.list(OTHER, SandboxFilter()) == []


async def of_two_writers_of_one_version_one_wins_and_one_is_told(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    sandbox = await create(stores, "sb-one")
    changed = [replace(sandbox, version=2, timeout_s=seconds) for seconds in range(10)]
    results = await asyncio.gather(
        *(stores.sandboxes.save(one, a_transition("changed")) for one in changed), return_exceptions=True
    )
    assert sum(result is None for result in results) == 1
    assert sum(isinstance(result, StaleVersion) for result in results) == 9
    log = await stores.sandboxes.transitions(ORGANISATION, sandbox.id)
    assert [row.event for row in log] == ["changed", "created"]


async def creating_the_same_id_again_changes_nothing(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    sandbox = await create(stores, "sb-one")
    again, operation = replace(sandbox, timeout_s=99), an_operation("op-another")
    assert await stores.sandboxes.create(again, operation, a_transition()) is False
    assert await stores.sandboxes.get(ORGANISATION, sandbox.id) == sandbox
    assert len(await stores.sandboxes.transitions(ORGANISATION, sandbox.id)) == 1
    assert len(await stores.operations.open_for(sandbox.id)) == 1


async def parallel_creates_cannot_pass_the_same_quota(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    await stores.organisations.change(ORGANISATION, name=None, quotas=Quotas(sandboxes=5), caps=None)
    results = await asyncio.gather(
        *(create(stores, f"sb-{number}") for number in range(20)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, QuotaExceeded)]
    assert len(refused) == 15
    assert refused[0].details == {"quota": "sandboxes", "limit": 5, "used": 5}
    assert (await stores.organisations.usage(ORGANISATION)).sandboxes == 5


async def a_repeated_create_at_the_quota_is_not_refused(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    await stores.organisations.change(ORGANISATION, name=None, quotas=Quotas(sandboxes=1), caps=None)
    await create(stores, "sb-1")
    await create(stores, "sb-1")


async def list_pages_newest_first(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    for number in range(5):
        await create(stores, f"sb-{number}", created_at=NOON + timedelta(seconds=number // 2), alias="x")
    seen: list[str] = []
    cursor = None
    for _ in range(5):
        page = await stores.sandboxes.list(ORGANISATION, SandboxFilter(limit=2, cursor=cursor, alias="x"))
        if not page:
            break
        seen += [sandbox.id for sandbox in page]
        cursor = (page[-1].created_at, page[-1].id)
    assert seen == ["sb-4", "sb-3", "sb-2", "sb-1", "sb-0"]
    running = SandboxFilter(states=frozenset({SandboxState.RUNNING}))
    assert await stores.sandboxes.list(ORGANISATION, running) == []


async def kill_cancels_what_is_open_and_begins_to_destroy(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    sandbox = await create(stores, "sb-one")
    killed = advance(sandbox, SandboxEvent.KILL_REQUESTED, at=NOON)
    destroy = an_operation("op-destroy", kind=OperationKind.DESTROY, step="stop")
    await stores.sandboxes.kill(killed, destroy, a_transition("kill_requested"))
    open_operations = {one.id: one.cancel_requested for one in await stores.operations.open_for(sandbox.id)}
    assert open_operations == {"op-sb-one": True, "op-destroy": False}
    with refusing(StaleVersion):
        await stores.sandboxes.kill(
            killed, replace(destroy, id=OperationId("op-2")), a_transition("kill_requested")
        )
    assert len(await stores.operations.open_for(sandbox.id)) == 2


async def activity_only_moves_forward(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    sandbox = await create(stores, "sb-one")
    running = advance(sandbox, SandboxEvent.BOOTED, at=NOON)
    await stores.sandboxes.save(running, None)
    later = NOON + timedelta(seconds=60)
    await stores.sandboxes.touch({sandbox.id: later})
    await stores.sandboxes.touch({sandbox.id: NOON + timedelta(seconds=30)})
    assert (await stores.sandboxes.get(ORGANISATION, sandbox.id)).active_at == later
    # A writer that read the row before the activity does not take it back either.
    await stores.sandboxes.save(replace(running, version=running.version + 1), None)
    after = await stores.sandboxes.get(ORGANISATION, sandbox.id)
    assert (after.active_at, after.version) == (later, running.version + 1)


async def activity_of_many_is_noted_at_once_also_of_one_that_moves(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    later = NOON + timedelta(seconds=60)
    for name, events in (
        ("sb-one", [SandboxEvent.BOOTED]),
        ("sb-two", [SandboxEvent.BOOTED, SandboxEvent.MIGRATE_REQUESTED]),
        ("sb-new", []),
    ):
        row = await create(stores, name)
        for event in events:
            row = advance(row, event, at=NOON)
            await stores.sandboxes.save(row, None)
    names = [SandboxId(name) for name in ("sb-one", "sb-two", "sb-new")]
    await stores.sandboxes.touch(dict.fromkeys(names, later))
    noted = [(await stores.sandboxes.get_any(name)).active_at for name in names]
    assert (noted[:2], noted[2] == later) == ([later, later], False)


async def idle_candidates_are_running_timed_and_past_their_time(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    past = NOON - timedelta(days=20000)
    for name, timeout_s, active_at in (
        ("sb-idle", 60, past),
        ("sb-never", 0, past),
        ("sb-fresh", 60, NOON),
    ):
        sandbox = await create(stores, name, timeout_s=timeout_s, active_at=active_at)
        await stores.sandboxes.save(advance(sandbox, SandboxEvent.BOOTED, at=NOON), None)
    await create(stores, "sb-creating", timeout_s=60, active_at=past)
    assert [one.id for one in await stores.sandboxes.idle_candidates()] == ["sb-idle"]


async def an_old_leader_starts_no_operation(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    sandbox = await create(stores, "sb-one")
    old = await stores.terms.raise_term("a")
    new = await stores.terms.raise_term("b")
    assert new == old + 1 == await stores.terms.current_term()
    running = advance(sandbox, SandboxEvent.BOOTED, at=NOON)
    expire = an_operation("op-expire", kind=OperationKind.EXPIRE)
    with refusing(StaleTerm):
        await stores.sandboxes.start_operation(running, expire, a_transition("x"), term=old)
    assert (await stores.sandboxes.get(ORGANISATION, sandbox.id)).version == 1
    await stores.sandboxes.start_operation(running, expire, a_transition("x"), term=new)
    assert (await stores.sandboxes.get(ORGANISATION, sandbox.id)).version == 2
    with refusing(StaleVersion):
        await stores.sandboxes.start_operation(running, expire, a_transition("x"), term=new)


async def old_rows_go_but_not_what_still_holds_something(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    await stores.workers.register(a_worker())
    for name in ("sb-gone", "sb-busy"):
        sandbox = await create(stores, name)
        long_ago = NOON - timedelta(days=20000)
        await stores.sandboxes.save(advance(sandbox, SandboxEvent.KILL_REQUESTED, at=long_ago), None)
    (operation,) = await stores.operations.open_for(SandboxId("sb-gone"))
    await stores.operations.finish(replace(operation, state=OperationState.SUCCEEDED))
    removed = await stores.sandboxes.remove_old(stopped_for=timedelta(days=30), events_for=timedelta(days=30))
    assert removed == 1
    with refusing(NotFound):
        await stores.sandboxes.get_any(SandboxId("sb-gone"))
    assert (await stores.sandboxes.get_any(SandboxId("sb-busy"))).state is SandboxState.STOPPED


async def counts_by_state(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    await create(stores, "sb-1")
    two = await create(stores, "sb-2")
    await stores.sandboxes.save(advance(two, SandboxEvent.BOOTED, at=NOON), None)
    assert await stores.sandboxes.counts() == {SandboxState.CREATING: 1, SandboxState.RUNNING: 1}


CHECKS: tuple[Check, ...] = (
    every_field_comes_back_as_it_was_written,
    another_organisation_does_not_see_it,
    of_two_writers_of_one_version_one_wins_and_one_is_told,
    creating_the_same_id_again_changes_nothing,
    parallel_creates_cannot_pass_the_same_quota,
    a_repeated_create_at_the_quota_is_not_refused,
    list_pages_newest_first,
    kill_cancels_what_is_open_and_begins_to_destroy,
    activity_only_moves_forward,
    activity_of_many_is_noted_at_once_also_of_one_that_moves,
    idle_candidates_are_running_timed_and_past_their_time,
    an_old_leader_starts_no_operation,
    old_rows_go_but_not_what_still_holds_something,
    counts_by_state,
)
