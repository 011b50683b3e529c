"""Forks against real stores: of a checkpoint, and of a running sandbox, all or none."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.crashing import (
    an_order,
    committed_mib,
    until,
    until_done,
)
from tests.integration.saved import (
    POINTS,
    Act,
    S,
    collect,
    ids,
    one_running,
    snapshot_state,
    survive,
    with_checkpoint,
)

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.loops import takeover
from sandfleet.model.errors import (
    GuestUnresponsive,
    NotFound,
    QuotaExceeded,
)
from sandfleet.model.ids import CheckpointId, SandboxId
from sandfleet.model.operation import OperationState
from sandfleet.model.organisation import Quotas
from sandfleet.model.sandbox import SandboxState
from sandfleet.testing.builders import ORGANISATION, a_worker, resources

pytestmark = pytest.mark.timeout(240)


async def test_a_fork_outlives_the_checkpoint_it_was_begun_from(replicas: Any) -> None:
    observer, sandbox = await with_checkpoint(replicas)
    checkpoint = await observer.stores.checkpoints.get(ORGANISATION, CheckpointId("cp-cp"))
    assert checkpoint.envs == {"A": "secret"}
    order = an_order("sb-fork", snapshot_id=checkpoint.snapshot_id, from_checkpoint_id=checkpoint.id)
    host = replicas.workers.host("wk-one")
    host.is_unreachable = True
    async with replicas.replica("replica-1") as fleet:
        await fleet.create(order)
        await observer.stores.checkpoints.delete(ORGANISATION, sandbox.id, checkpoint.id)
        host.is_unreachable = False
        await collect(observer)
        await until(observer, lambda row: row.state is S.RUNNING, "sb-fork")
    assert host.orders[-1].snapshot.is_fork
    await collect(observer)
    with pytest.raises(NotFound):
        await snapshot_state(observer, "cp")


async def test_a_fork_of_a_deleted_checkpoint_is_not_found(replicas: Any) -> None:
    observer, sandbox = await with_checkpoint(replicas)
    checkpoint = await observer.stores.checkpoints.get(ORGANISATION, CheckpointId("cp-cp"))
    await observer.stores.checkpoints.delete(ORGANISATION, sandbox.id, checkpoint.id)
    order = an_order("sb-fork", snapshot_id=checkpoint.snapshot_id, from_checkpoint_id=checkpoint.id)
    async with replicas.replica("replica-1") as fleet:
        with pytest.raises(NotFound):
            await fleet.create(order)


def forks(count: int) -> list[Any]:
    return [an_order(f"sb-fork{number}") for number in range(count)]


async def until_all(observer: ControlPlane, count: int, state: SandboxState) -> None:
    for number in range(count):
        await until(observer, lambda row: row.state is state, f"sb-fork{number}")


@pytest.mark.parametrize("point", [*POINTS, (4, "before"), (5, "before"), (6, "after")])
async def test_a_live_fork_survives_the_death_of_its_replica_at_any_point(
    replicas: Any, point: tuple[int, str]
) -> None:
    observer, sandbox = await one_running(replicas)
    act: Act = lambda fleet: fleet.fork(sandbox, forks(3), ids=ids("live"), is_partial=False)  # noqa: E731
    await survive(replicas, observer, act, point)
    async with replicas.replica("replica-2") as fleet:
        await takeover.tick(fleet.engine._plane, fleet.engine)
        await until_all(observer, 3, S.RUNNING)
        operation = await until_done(observer, "op-live")
    host = replicas.workers.host("wk-one")
    assert (operation.state, operation.progress["pause_ms"]) == (OperationState.SUCCEEDED, 12)
    assert (len(host.vms), host.starts, await committed_mib(observer)) == (4, 4, 4096)
    await collect(observer)
    with pytest.raises(NotFound):  # nobody needs the capture any more
        await snapshot_state(observer, "live")


async def test_a_live_fork_is_all_or_none(replicas: Any) -> None:
    observer, sandbox = await one_running(replicas)
    replicas.settings["creation_queue_s"] = 1.2
    await observer.stores.workers.register(
        a_worker(sequence=2, total=resources(2048, cpu_count=8, disk_mib=10**7))
    )
    async with replicas.replica("replica-1") as fleet:
        await fleet.fork(sandbox, forks(3), ids=ids("live"), is_partial=False)
        operation = await until_done(observer, "op-live")
        for number in range(3):
            await until(observer, lambda row: row.is_terminal and row.worker_id is None, f"sb-fork{number}")
    assert (operation.state, operation.error_code) == (OperationState.FAILED, "no_capacity")
    assert list(replicas.workers.host("wk-one").vms) == [sandbox.id]
    assert await committed_mib(observer) == 1024


async def test_a_partial_live_fork_keeps_what_it_got(replicas: Any) -> None:
    observer, sandbox = await one_running(replicas)
    await observer.stores.organisations.change(ORGANISATION, name=None, quotas=Quotas(sandboxes=3), caps=None)
    async with replicas.replica("replica-1") as fleet:
        with pytest.raises(QuotaExceeded):
            await fleet.fork(sandbox, forks(3), ids=ids("live"), is_partial=False)
        _, created = await fleet.fork(sandbox, forks(3), ids=ids("part"), is_partial=True)
        assert [row.id for row in created] == ["sb-fork0", "sb-fork1"]
        await until_all(observer, 2, S.RUNNING)
        operation = await until_done(observer, "op-part")
    assert operation.state is OperationState.SUCCEEDED
    with pytest.raises(NotFound):
        await observer.stores.sandboxes.get_any(SandboxId("sb-fork2"))


async def test_a_capture_that_fails_hands_out_no_fork(replicas: Any) -> None:
    observer, sandbox = await one_running(replicas)
    replicas.workers.host("wk-one").save_failure = GuestUnresponsive("agent unresponsive: no answer")
    async with replicas.replica("replica-1") as fleet:
        await fleet.fork(sandbox, forks(2), ids=ids("live"), is_partial=False)
        operation = await until_done(observer, "op-live")
        for number in range(2):
            await until(observer, lambda row: row.is_terminal, f"sb-fork{number}")
    assert operation.error_code == "agent_unresponsive"
    assert list(replicas.workers.host("wk-one").vms) == [sandbox.id]


async def test_a_live_fork_spreads_when_its_own_worker_is_full(replicas: Any) -> None:
    observer, sandbox = await one_running(replicas)
    await observer.stores.workers.register(
        a_worker(sequence=2, total=resources(2048, cpu_count=8, disk_mib=10**7))
    )
    await observer.stores.workers.register(a_worker("wk-two"))
    async with replicas.replica("replica-1") as fleet:
        await fleet.fork(sandbox, forks(3), ids=ids("live"), is_partial=False)
        await until_all(observer, 3, S.RUNNING)
    assert (len(replicas.workers.host("wk-one").vms), len(replicas.workers.host("wk-two").vms)) == (2, 2)
