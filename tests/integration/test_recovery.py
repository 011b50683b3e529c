"""A sandbox whose VM is lost comes back from its newest saved state, with a reason, or ends in `error`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.integration.crashing import Tripwire, committed_mib, until
from tests.integration.saved import (
    POINTS,
    Act,
    S,
    collect,
    finish_elsewhere,
    ids,
    one_running,
    survive,
    with_checkpoint,
)

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.operations.fleet import Fleet
from sandfleet.model.errors import NotFound
from sandfleet.model.ids import OperationId, SnapshotId
from sandfleet.model.operation import OperationState
from sandfleet.model.sandbox import Sandbox
from sandfleet.planning.repair import RECOVERIES_MAX
from sandfleet.testing.builders import ORGANISATION
from sandfleet.wire.worker_messages import VmStatus

pytestmark = pytest.mark.timeout(240)


def die(replicas: Any, sandbox: Sandbox, *, reason: str = "QEMU was killed") -> None:
    """Let the sandbox's VM be dead on its worker."""
    vms = replicas.workers.host("wk-one").vms
    vms[sandbox.id] = VmStatus(sandbox_id=sandbox.id, epoch=sandbox.epoch, state="dead", reason=reason)


async def miss(fleet: Fleet) -> None:
    """Look at the workers as often as it takes to believe it."""
    await fleet.reconciler.tick(term=1)
    await fleet.reconciler.tick(term=1)


async def leading(observer: ControlPlane) -> None:
    await observer.stores.terms.raise_term("replica-1")


async def events(observer: ControlPlane, sandbox: Sandbox) -> list[str]:
    log = await observer.stores.sandboxes.transitions(ORGANISATION, sandbox.id)
    return [row.event for row in reversed(log)]


async def test_a_dead_sandbox_comes_back_from_its_checkpoint(replicas: Any) -> None:
    observer, before = await with_checkpoint(replicas)
    await leading(observer)
    die(replicas, before)
    async with replicas.replica("replica-1") as fleet:
        await miss(fleet)
        after = await until(observer, lambda row: row.state is S.RUNNING and row.epoch > before.epoch)
    host = replicas.workers.host("wk-one")
    assert host.orders[-1].snapshot.snapshot_id == "sn-cp"
    assert not host.orders[-1].snapshot.is_fork, "it is the same sandbox, not another one"
    assert host.vms[before.id].state == "running"
    assert await committed_mib(observer) == 1024
    log = await observer.stores.sandboxes.transitions(ORGANISATION, before.id)
    (recover,) = [row for row in log if row.event == "recover"]
    assert (recover.from_state, recover.to_state) == (S.RUNNING, S.WAKING)
    assert "QEMU was killed; it goes back to what was saved at" in recover.reason
    assert recover.detail["snapshot_id"] == "sn-cp"
    assert (await events(observer, before))[-4:] == ["recover", "cleared", "placed", "woken"]
    await collect(observer)
    assert after.snapshot_id == "sn-cp"
    await observer.stores.snapshots.get(SnapshotId("sn-cp"))  # the next loss needs it again


async def test_the_newest_of_what_was_saved_is_taken(replicas: Any) -> None:
    observer, sandbox = await with_checkpoint(replicas)
    await leading(observer)
    async with replicas.replica("replica-1") as fleet:
        await fleet.hibernate(sandbox, ids=ids("later"), actor="test")
        sandbox = await until(observer, lambda row: row.state is S.HIBERNATED)
        await fleet.wake(sandbox, actor="test", ids={"operation_id": "op-wake"})
        sandbox = await until(observer, lambda row: row.state is S.RUNNING)
        die(replicas, sandbox)
        await miss(fleet)
        await until(observer, lambda row: row.state is S.RUNNING and row.epoch > sandbox.epoch)
    assert replicas.workers.host("wk-one").orders[-1].snapshot.snapshot_id == "sn-later"


@pytest.mark.parametrize("point", POINTS)
async def test_a_recovery_survives_the_death_of_its_replica_at_any_point(
    replicas: Any, point: tuple[int, str]
) -> None:
    observer, before = await with_checkpoint(replicas)
    await leading(observer)
    die(replicas, before)

    async def miss_and_begin(fleet: Fleet) -> None:
        await miss(fleet)

    act: Act = miss_and_begin
    await survive(replicas, observer, act, point)
    async with replicas.replica("replica-2") as fleet:
        await miss(fleet)
    await finish_elsewhere(replicas, observer, S.RUNNING)
    after = await observer.stores.sandboxes.get_any(before.id)
    assert after.epoch > before.epoch
    assert replicas.workers.host("wk-one").vms[before.id].state == "running"
    assert await committed_mib(observer) == 1024
    assert (await events(observer, before)).count("recover") == 1


@pytest.mark.parametrize("point", [(number, when) for number in (5, 6, 7) for when in ("before", "after")])
async def test_a_kill_wins_against_a_recovery(replicas: Any, point: tuple[int, str]) -> None:
    observer, before = await with_checkpoint(replicas)
    await leading(observer)
    die(replicas, before)
    wire = Tripwire(*point)
    plane = wire.around(replicas.plane("replica-1"))
    async with replicas.replica("replica-1", plane=plane) as slow, replicas.replica("replica-2") as killer:
        async with asyncio.timeout(90), asyncio.TaskGroup() as tasks:
            tasks.create_task(miss(slow))
            await wire.hung.wait()
            row = await observer.stores.sandboxes.get_any(before.id)
            await killer.kill(row, actor="test")
            wire.may_go_on.set()
        await until(observer, lambda row: row.state is S.STOPPED and row.worker_id is None)
    assert replicas.workers.host("wk-one").vms == {}
    assert await committed_mib(observer) == 0


async def test_without_a_place_it_sleeps_and_is_not_lost(replicas: Any) -> None:
    observer, before = await with_checkpoint(replicas)
    replicas.settings["creation_queue_s"] = 2
    await leading(observer)
    die(replicas, before)
    host = replicas.workers.host("wk-one")
    async with replicas.replica("replica-1") as fleet:
        host.is_full = True
        await miss(fleet)
        asleep = await until(observer, lambda row: row.state is S.HIBERNATED)
        assert (asleep.snapshot_id, asleep.worker_id) == ("sn-cp", None)
        host.is_full = False
        await fleet.wake(asleep, actor="test", ids={"operation_id": "op-wake"})
        await until(observer, lambda row: row.state is S.RUNNING)


async def test_what_dies_again_and_again_ends(replicas: Any) -> None:
    observer, sandbox = await with_checkpoint(replicas)
    await leading(observer)
    async with replicas.replica("replica-1") as fleet:
        for _ in range(RECOVERIES_MAX):
            die(replicas, sandbox)
            await miss(fleet)
            epoch = sandbox.epoch
            sandbox = await until(
                observer, lambda row, epoch=epoch: row.state is S.RUNNING and row.epoch > epoch
            )
        die(replicas, sandbox)
        await miss(fleet)
        ended = await until(observer, lambda row: row.state is S.ERROR)
    assert ended.error_message == "QEMU was killed; it was recovered 3 times within the last hour"
    assert await committed_mib(observer) == 0


async def test_a_hibernation_that_finds_neither_vm_nor_state_recovers(replicas: Any) -> None:
    observer, sandbox = await with_checkpoint(replicas)
    host = replicas.workers.host("wk-one")
    async with replicas.replica("replica-1") as fleet:
        host.save_failure = NotFound("no machine")
        await fleet.hibernate(sandbox, ids=ids("gone"), actor="test")
        await until(observer, lambda row: row.state is S.RUNNING and row.epoch > sandbox.epoch)
        operation = await observer.stores.operations.get(OperationId("op-gone"))
    assert operation.state is OperationState.FAILED
    assert (await events(observer, sandbox))[-5:-2] == ["hibernate_requested", "recover", "cleared"]


async def test_a_sandbox_that_was_never_saved_ends_in_error(replicas: Any) -> None:
    observer, sandbox = await one_running(replicas)
    await leading(observer)
    die(replicas, sandbox)
    async with replicas.replica("replica-1") as fleet:
        await miss(fleet)
        ended = await until(observer, lambda row: row.state is S.ERROR)
    assert ended.error_message == "QEMU was killed"
