"""Operations against real stores and workers in memory: a crash at any point leaves nothing stuck."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from tests.integration.crashing import (
    POINTS,
    Tripwire,
    an_order,
    committed_mib,
    crash,
    prepare,
    run_until_hung,
    until,
    until_hung,
    until_queued,
)
from tests.waiting import eventually

from sandfleet.controlplane.loops import takeover
from sandfleet.model.ids import OperationId, SandboxId
from sandfleet.model.operation import OperationState
from sandfleet.model.sandbox import SandboxState, StopReason
from sandfleet.testing.builders import ORGANISATION, a_worker

pytestmark = pytest.mark.timeout(240)


async def test_a_create_runs_and_leaves_one_machine_one_reservation_and_the_log(replicas: Any) -> None:
    observer = await prepare(replicas)
    async with replicas.replica("replica-1") as fleet:
        await fleet.create(an_order(envs={"A": "b"}))
        sandbox = await until(observer, lambda row: row.state is SandboxState.RUNNING)
        operation = await fleet.engine.wait_for(OperationId("op-sb-one"), timeout_s=60)
    assert (sandbox.epoch, sandbox.worker_id, sandbox.envs) == (1, "wk-one", {"A": "b"})
    assert sandbox.started_at
    assert operation.state is OperationState.SUCCEEDED
    assert replicas.workers.host("wk-one").vms["sb-one"].epoch == 1
    assert await committed_mib(observer) == 1024
    log = await observer.stores.sandboxes.transitions(ORGANISATION, sandbox.id)
    assert [row.event for row in log] == ["booted", "placed", "created"]
    assert [row.to_state for row in log] == ["running", "creating", "creating"]


@pytest.mark.parametrize(("number", "when"), POINTS)
async def test_a_create_survives_the_death_of_its_replica_at_any_point(
    replicas: Any, number: int, when: str
) -> None:
    observer = await prepare(replicas)
    wire = Tripwire(number, when)
    was_reached = await run_until_hung(replicas, wire, lambda fleet: fleet.create(an_order()))
    await crash(replicas, observer)
    async with replicas.replica("replica-2") as fleet:
        await takeover.tick(fleet.engine._plane, fleet.engine)
        sandbox = await until(observer, lambda row: row.state is SandboxState.RUNNING)
    assert was_reached or number >= 3
    host = replicas.workers.host("wk-one")
    assert (host.starts, host.vms[sandbox.id].epoch) == (1, sandbox.epoch)
    assert await committed_mib(observer) == 1024


@pytest.mark.parametrize(("number", "when"), POINTS)
async def test_a_kill_survives_the_death_of_its_replica_at_any_point(
    replicas: Any, number: int, when: str
) -> None:
    observer = await prepare(replicas)
    async with replicas.replica("replica-0") as fleet:
        await fleet.create(an_order())
        sandbox = await until(observer, lambda row: row.state is SandboxState.RUNNING)
    wire = Tripwire(number, when)
    await run_until_hung(replicas, wire, lambda fleet: fleet.kill(sandbox, actor="test"))
    await crash(replicas, observer)
    async with replicas.replica("replica-2") as fleet:
        await takeover.tick(fleet.engine._plane, fleet.engine)
        sandbox = await until(observer, lambda row: row.worker_id is None)
    assert (sandbox.state, sandbox.stop_reason) == (SandboxState.STOPPED, StopReason.USER_REQUESTED)
    assert replicas.workers.host("wk-one").vms == {}
    assert await committed_mib(observer) == 0


@pytest.mark.parametrize(("number", "when"), POINTS[:6])
async def test_a_kill_wins_against_a_create_at_any_point(replicas: Any, number: int, when: str) -> None:
    observer = await prepare(replicas)
    wire = Tripwire(number, when)
    plane = wire.around(replicas.plane("replica-1"))
    async with replicas.replica("replica-1", plane=plane) as slow, replicas.replica("replica-2") as killer:
        sandbox = await slow.create(an_order())
        await until_hung(wire)
        killed = await killer.kill(sandbox, actor="test")
        assert killed.state is SandboxState.STOPPED
        wire.may_go_on.set()
        sandbox = await until(observer, lambda row: row.worker_id is None)
    assert sandbox.state is SandboxState.STOPPED
    assert replicas.workers.host("wk-one").vms == {}
    assert await committed_mib(observer) == 0


async def test_a_kill_in_the_same_replica_ends_the_create_at_once(replicas: Any) -> None:
    observer = await prepare(replicas)
    wire = Tripwire(1, "before")  # in the call to the worker, which never answers
    plane = wire.around(replicas.plane("replica-1"))
    async with replicas.replica("replica-1", plane=plane) as fleet:
        sandbox = await fleet.create(an_order())
        await until_hung(wire)
        await fleet.kill(sandbox, actor="test")
        await until(observer, lambda row: row.worker_id is None)
    operation = await observer.stores.operations.get(OperationId("op-sb-one"))
    assert operation.state is OperationState.CANCELLED


async def test_a_start_that_fails_ends_failed_and_leaves_nothing(replicas: Any) -> None:
    observer = await prepare(replicas)
    host = replicas.workers.host("wk-one")
    host.epochs[SandboxId("sb-one")] = 99  # the worker refuses with "moved"
    async with replicas.replica("replica-1") as fleet:
        await fleet.create(an_order())

        async def has_failed() -> bool:
            row = await observer.stores.sandboxes.get_any(SandboxId("sb-one"))
            return row.state is SandboxState.FAILED

        await eventually(has_failed, what="the create to fail")
        assert await committed_mib(observer) == 1024  # no proof yet, so the place is not free
        host.epochs.clear()
        sandbox = await until(observer, lambda row: row.worker_id is None)
    assert (sandbox.state, bool(sandbox.error_message)) == (SandboxState.FAILED, True)
    assert await committed_mib(observer) == 0
    operation = await observer.stores.operations.get(OperationId("op-sb-one"))
    assert (operation.state, operation.error_code) == (OperationState.FAILED, "moved")


async def test_an_unreachable_worker_frees_nothing_until_it_answers(replicas: Any) -> None:
    observer = await prepare(replicas)
    host = replicas.workers.host("wk-one")
    async with replicas.replica("replica-1") as fleet:
        await fleet.create(an_order())
        sandbox = await until(observer, lambda row: row.state is SandboxState.RUNNING)
        host.is_unreachable = True
        await fleet.kill(sandbox, actor="test")
        await asyncio.sleep(0.3)
        assert await committed_mib(observer) == 1024
        host.is_unreachable = False
        await until(observer, lambda row: row.worker_id is None)
    assert (host.vms, await committed_mib(observer)) == ({}, 0)


async def test_a_host_that_is_full_itself_is_left_for_another(replicas: Any) -> None:
    observer = await prepare(replicas)
    await observer.stores.workers.register(a_worker("wk-two"))
    replicas.workers.host("wk-one").is_full = True
    async with replicas.replica("replica-1") as fleet:
        await fleet.create(an_order())
        sandbox = await until(observer, lambda row: row.state is SandboxState.RUNNING)
    assert (sandbox.worker_id, sandbox.epoch) == ("wk-two", 2)
    assert await committed_mib(observer) == 1024


@pytest.mark.parametrize("trouble", ["is_unreachable", "is_adopting"])
async def test_a_worker_that_comes_back_still_gets_its_create(replicas: Any, trouble: str) -> None:
    observer = await prepare(replicas)
    host = replicas.workers.host("wk-one")
    setattr(host, trouble, True)
    async with replicas.replica("replica-1") as fleet:
        await fleet.create(an_order())
        await asyncio.sleep(0.5)
        assert (await observer.stores.sandboxes.get_any(SandboxId("sb-one"))).state is SandboxState.CREATING
        setattr(host, trouble, False)
        await until(observer, lambda row: row.state is SandboxState.RUNNING)
    assert host.starts == 1


async def test_the_only_host_may_refuse_once_and_take_it_later(replicas: Any) -> None:
    observer = await prepare(replicas)
    host = replicas.workers.host("wk-one")
    host.is_full = True
    async with replicas.replica("replica-1") as fleet:
        await fleet.create(an_order())
        await until_queued(observer, 1)
        assert await committed_mib(observer) == 0
        host.is_full = False
        await until(observer, lambda row: row.state is SandboxState.RUNNING)
    assert await committed_mib(observer) == 1024


async def test_the_queue_serves_the_oldest_when_a_place_becomes_free(replicas: Any) -> None:
    observer = await prepare(replicas, memory_mib=1024)
    async with replicas.replica("replica-1") as one, replicas.replica("replica-2") as two:
        first = await one.create(an_order("sb-first"))
        await until(observer, lambda row: row.state is SandboxState.RUNNING, "sb-first")
        for fleet, name in ((two, "sb-second"), (one, "sb-third")):
            await fleet.create(an_order(name))
            await until_queued(observer, 1 if name == "sb-second" else 2)
        first = await observer.stores.sandboxes.get_any(first.id)
        await one.kill(first, actor="test")
        await until(observer, lambda row: row.state is SandboxState.RUNNING, "sb-second")
        third = await observer.stores.sandboxes.get_any(SandboxId("sb-third"))
        assert third.state is SandboxState.CREATING
        assert await observer.stores.placements.queue_length() == 1


async def test_a_create_without_a_place_fails_when_the_queue_is_over(replicas: Any) -> None:
    observer = await prepare(replicas, memory_mib=512)
    plane = replicas.plane("replica-1", creation_queue_s=1.2)
    async with replicas.replica("replica-1", plane=plane) as fleet:
        await fleet.create(an_order())
        sandbox = await until(observer, lambda row: row.state is SandboxState.FAILED)
    operation = await observer.stores.operations.get(OperationId("op-sb-one"))
    assert (operation.error_code, operation.progress["retry_after_s"]) == ("no_capacity", 5)
    assert "1024 of memory wanted" in str(sandbox.error_message)
    assert await observer.stores.operations.open_for(sandbox.id) == []


async def test_a_create_in_the_queue_can_be_killed(replicas: Any) -> None:
    observer = await prepare(replicas, memory_mib=512)
    async with replicas.replica("replica-1") as fleet:
        sandbox = await fleet.create(an_order())
        await until_queued(observer, 1)
        await fleet.kill(await observer.stores.sandboxes.get_any(sandbox.id), actor="test")
        await until(observer, lambda row: row.state is SandboxState.STOPPED)
    assert await observer.stores.placements.queue_length() == 0


async def test_a_create_that_never_ends_gives_up_at_its_deadline(replicas: Any) -> None:
    observer = await prepare(replicas)
    wire = Tripwire(1, "before")
    plane = wire.around(replicas.plane("replica-1", create_deadline_s=0.5, operation_lease_s=1))
    async with replicas.replica("replica-1", plane=plane) as fleet:
        await fleet.create(an_order())
        sandbox = await until(observer, lambda row: row.state is SandboxState.FAILED)
    assert sandbox.error_message == "the operation did not end in time"
    assert await committed_mib(observer) == 0


async def test_a_restart_of_postgresql_in_the_middle_stops_nothing(
    replicas: Any, postgres_server: Any
) -> None:
    observer = await prepare(replicas)
    wire = Tripwire(1, "after")  # the machine runs, its row says `creating`
    plane = wire.around(replicas.plane("replica-1"))
    async with replicas.replica("replica-1", plane=plane) as fleet:
        await fleet.create(an_order())
        await until_hung(wire)
        await asyncio.to_thread(postgres_server.kill)
        wire.may_go_on.set()
        await asyncio.sleep(0.5)
        await asyncio.to_thread(postgres_server.restart)
        await until(observer, lambda row: row.state is SandboxState.RUNNING)
    assert replicas.workers.host("wk-one").starts == 1


async def test_losing_redis_in_the_middle_costs_at_most_seconds(replicas: Any, valkey_server: Any) -> None:
    observer = await prepare(replicas, memory_mib=1024)
    async with replicas.replica("replica-1") as fleet:
        await fleet.create(an_order("sb-first"))
        first = await until(observer, lambda row: row.state is SandboxState.RUNNING, "sb-first")
        await asyncio.to_thread(valkey_server.kill)
        await fleet.create(an_order("sb-second"))
        await fleet.kill(first, actor="test")
        await until(observer, lambda row: row.state is SandboxState.RUNNING, "sb-second")
        await asyncio.to_thread(valkey_server.restart)
    with suppress(KeyError):
        del replicas.workers.host("wk-one").vms[SandboxId("none")]
    assert set(replicas.workers.host("wk-one").vms) == {"sb-second"}


async def test_who_lost_the_lease_stops_and_the_other_ends_it(replicas: Any) -> None:
    observer = await prepare(replicas)
    wire = Tripwire(1, "before")  # stuck in the call to the worker
    plane = wire.around(replicas.plane("replica-1", operation_lease_s=6))
    async with replicas.replica("replica-1", plane=plane) as slow, replicas.replica("replica-2") as other:
        await slow.create(an_order())
        await until_hung(wire)
        await crash(replicas, observer)
        assert "create" in await takeover.tick(other.engine._plane, other.engine)
        await until(observer, lambda row: row.state is SandboxState.RUNNING)
        await eventually(lambda: not len(slow.engine), what="who lost the lease to stop")
    assert replicas.workers.host("wk-one").starts == 1


async def test_an_engine_that_ends_lets_others_take_over_at_once(replicas: Any) -> None:
    observer = await prepare(replicas)
    wire = Tripwire(1, "before")
    plane = wire.around(replicas.plane("replica-1"))
    async with replicas.replica("replica-1", plane=plane) as fleet:
        await fleet.create(an_order())
        await until_hung(wire)
    async with replicas.replica("replica-2") as fleet:
        await takeover.tick(fleet.engine._plane, fleet.engine)
        await until(observer, lambda row: row.state is SandboxState.RUNNING)
