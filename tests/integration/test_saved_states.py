"""Hibernate, wake, checkpoint, restore and fork on real stores: a crash anywhere leaves nothing stuck."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.integration.crashing import (
    Tripwire,
    committed_mib,
    until,
    until_done,
    until_hung,
)
from tests.integration.saved import (
    POINTS,
    Act,
    S,
    collect,
    finish_elsewhere,
    hibernated,
    ids,
    one_running,
    snapshot_state,
    survive,
    with_checkpoint,
)
from tests.waiting import eventually

from sandfleet.controlplane.dependencies import NewSize
from sandfleet.controlplane.loops import expiry
from sandfleet.controlplane.operations.arrival import START_FAILURES_MAX
from sandfleet.model.checkpoint import CheckpointState
from sandfleet.model.errors import (
    BadRequest,
    Conflict,
    GuestUnresponsive,
    HypervisorFailed,
    NotFound,
    QuotaExceeded,
    SnapshotUnusable,
    StaleVersion,
)
from sandfleet.model.ids import CheckpointId, OrganisationId
from sandfleet.model.operation import OperationState
from sandfleet.model.organisation import Quotas
from sandfleet.model.snapshot import SnapshotState
from sandfleet.testing.builders import ORGANISATION, a_worker, resources
from sandfleet.testing.fake_snapshots import SIZE_BYTES

pytestmark = pytest.mark.timeout(240)


# --- hibernate


async def test_hibernating_frees_the_place_and_becomes_durable(replicas: Any) -> None:
    observer, sandbox = await hibernated(replicas)
    host = replicas.workers.host("wk-one")
    assert (sandbox.worker_id, sandbox.snapshot_id, host.vms) == (None, "sn-first", {})
    assert await committed_mib(observer) == 0
    assert await snapshot_state(observer, "first") is SnapshotState.DURABLE
    assert "sn-first" in replicas.workers.durable
    log = await observer.stores.sandboxes.transitions(ORGANISATION, sandbox.id)
    assert [row.event for row in log[:2]] == ["saved", "hibernate_requested"]
    assert log[0].detail["pause_ms"] == 12


@pytest.mark.parametrize("point", POINTS)
async def test_a_hibernation_survives_the_death_of_its_replica_at_any_point(
    replicas: Any, point: tuple[int, str]
) -> None:
    observer, sandbox = await one_running(replicas)
    act: Act = lambda fleet: fleet.hibernate(sandbox, ids=ids("first"), actor="test")  # noqa: E731
    await survive(replicas, observer, act, point)
    sandbox = await finish_elsewhere(replicas, observer, S.HIBERNATED)
    assert replicas.workers.host("wk-one").vms == {}
    assert await committed_mib(observer) == 0
    assert await snapshot_state(observer, "first") is SnapshotState.DURABLE


@pytest.mark.parametrize("point", POINTS)
async def test_a_kill_wins_against_a_hibernation_at_any_point(replicas: Any, point: tuple[int, str]) -> None:
    observer, sandbox = await one_running(replicas)
    wire = Tripwire(*point)
    plane = wire.around(replicas.plane("replica-1"))
    async with replicas.replica("replica-1", plane=plane) as slow, replicas.replica("replica-2") as killer:
        await slow.hibernate(sandbox, ids=ids("first"), actor="test")
        await until_hung(wire)
        row = await observer.stores.sandboxes.get_any(sandbox.id)
        await killer.kill(row, actor="test")
        wire.may_go_on.set()
        await until(observer, lambda row: row.state is S.STOPPED and row.worker_id is None)
    assert replicas.workers.host("wk-one").vms == {}
    assert await committed_mib(observer) == 0
    await collect(observer)
    with pytest.raises(NotFound):
        await snapshot_state(observer, "first")
    assert replicas.workers.host("wk-one").saved == {}


@pytest.mark.parametrize(
    "failure",
    [
        GuestUnresponsive("agent unresponsive: no answer"),
        Conflict("rootfs disk usage 97%", code="guest_disk_full"),
        HypervisorFailed("no space left on the host"),
    ],
)
async def test_a_refused_hibernation_leaves_the_sandbox_running(replicas: Any, failure: Any) -> None:
    observer, sandbox = await one_running(replicas)
    host = replicas.workers.host("wk-one")
    host.save_failure = failure
    async with replicas.replica("replica-1") as fleet:
        await fleet.hibernate(sandbox, ids=ids("first"), actor="test")
        sandbox = await until(observer, lambda row: row.state is S.RUNNING)
        operation = await until_done(observer, "op-first")
    assert (operation.state, operation.error_code) == (OperationState.FAILED, failure.code)
    assert operation.error_message == failure.message
    assert (sandbox.snapshot_id, list(host.vms)) == (None, ["sb-one"])
    assert await committed_mib(observer) == 1024
    await collect(observer)
    with pytest.raises(NotFound):
        await snapshot_state(observer, "first")


async def test_a_silent_worker_is_asked_until_it_says_what_it_did(replicas: Any) -> None:
    observer, sandbox = await one_running(replicas)
    host = replicas.workers.host("wk-one")
    host.is_unreachable = True
    plane = replicas.plane("replica-1", save_deadline_s=0.2, operation_lease_s=0.6)
    async with replicas.replica("replica-1", plane=plane) as fleet:
        await fleet.hibernate(sandbox, ids=ids("first"), actor="test")
        await asyncio.sleep(0.8)
        assert (await observer.stores.sandboxes.get_any(sandbox.id)).state is S.HIBERNATING
        assert await committed_mib(observer) == 1024
        host.is_unreachable = False
        await until(observer, lambda row: row.state is S.HIBERNATED)


async def test_what_a_worker_has_lost_ends_in_error(replicas: Any) -> None:
    observer, sandbox = await one_running(replicas)
    replicas.workers.host("wk-one").vms.clear()
    async with replicas.replica("replica-1") as fleet:
        await fleet.hibernate(sandbox, ids=ids("first"), actor="test")
        sandbox = await until(observer, lambda row: row.state is S.ERROR and row.worker_id is None)
    assert "neither" in str(sandbox.error_message)
    assert await committed_mib(observer) == 0


async def test_the_idle_timer_hibernates_and_is_refused_when_busy(replicas: Any) -> None:
    observer, sandbox = await one_running(replicas, timeout_s=1)
    host = replicas.workers.host("wk-one")
    host.busy.add(sandbox.id)
    term = await observer.stores.terms.current_term()
    async with replicas.replica("replica-1") as fleet:
        plane = fleet.engine._plane
        await asyncio.sleep(1.2)
        assert "1 of 1" in await expiry.tick(plane, fleet.engine, term=term)
        sandbox = await until(observer, lambda row: row.state is S.RUNNING and row.version > sandbox.version)
        assert list(host.vms) == [sandbox.id]
        host.busy.clear()
        await asyncio.sleep(1.2)
        await expiry.tick(plane, fleet.engine, term=term)
        await until(observer, lambda row: row.state is S.HIBERNATED)


async def test_two_verbs_that_read_the_same_row_do_not_both_begin(replicas: Any) -> None:
    observer, sandbox = await one_running(replicas)
    async with replicas.replica("replica-1") as fleet:
        await fleet.checkpoint(sandbox, ids=ids("cp"), name="one", actor="test")
        with pytest.raises(StaleVersion):
            await fleet.hibernate(sandbox, ids=ids("first"), actor="test")
        await until(observer, lambda row: row.state is S.RUNNING)


# --- wake


async def test_a_wake_brings_it_back_under_a_new_epoch(replicas: Any) -> None:
    observer, sandbox = await hibernated(replicas)
    async with replicas.replica("replica-1") as fleet:
        await fleet.wake(sandbox, actor="test")
        woken = await until(observer, lambda row: row.state is S.RUNNING)
    order = replicas.workers.host("wk-one").orders[-1]
    assert (woken.epoch, woken.worker_id, woken.timeout_s) == (2, "wk-one", sandbox.timeout_s)
    assert (order.snapshot.snapshot_id, order.snapshot.is_fork) == ("sn-first", False)
    assert order.snapshot.manifest == replicas.workers.durable["sn-first"].manifest
    assert await committed_mib(observer) == 1024
    await collect(observer)
    assert await snapshot_state(observer, "first") is SnapshotState.DURABLE  # its last safe state


@pytest.mark.parametrize("point", POINTS)
async def test_a_wake_survives_the_death_of_its_replica_at_any_point(
    replicas: Any, point: tuple[int, str]
) -> None:
    observer, sandbox = await hibernated(replicas)
    await survive(replicas, observer, lambda fleet: fleet.wake(sandbox, actor="test"), point)
    woken = await finish_elsewhere(replicas, observer, S.RUNNING)
    host = replicas.workers.host("wk-one")
    assert (host.starts, host.vms[sandbox.id].epoch) == (2, woken.epoch)
    assert await committed_mib(observer) == 1024


@pytest.mark.parametrize("point", POINTS[:6])
async def test_a_kill_wins_against_a_wake_at_any_point(replicas: Any, point: tuple[int, str]) -> None:
    observer, sandbox = await hibernated(replicas)
    wire = Tripwire(*point)
    plane = wire.around(replicas.plane("replica-1"))
    async with replicas.replica("replica-1", plane=plane) as slow, replicas.replica("replica-2") as killer:
        await slow.wake(sandbox, actor="test")
        await until_hung(wire)
        await killer.kill(await observer.stores.sandboxes.get_any(sandbox.id), actor="test")
        wire.may_go_on.set()
        await until(observer, lambda row: row.state is S.STOPPED and row.worker_id is None)
    assert replicas.workers.host("wk-one").vms == {}
    assert await committed_mib(observer) == 0


async def test_another_worker_wakes_what_is_durable_but_not_what_is_local(replicas: Any) -> None:
    observer, sandbox = await one_running(replicas)
    host = replicas.workers.host("wk-one")
    host.upload_failure = "the object store is away"
    plane = replicas.plane("replica-1", creation_queue_s=4)
    async with replicas.replica("replica-1", plane=plane) as fleet:
        await fleet.hibernate(sandbox, ids=ids("first"), actor="test")
        await until_done(observer, "op-first")
        await observer.stores.workers.register(a_worker("wk-two"))
        host.is_full = True
        sandbox = await observer.stores.sandboxes.get_any(sandbox.id)
        operation = await fleet.wake(sandbox, actor="test")
        failed = await until_done(observer, operation.id)
        assert failed.error_code == "no_capacity"
        assert "not durable yet" in str(failed.error_message)
        sandbox = await observer.stores.sandboxes.get_any(sandbox.id)
        assert (sandbox.state, await committed_mib(observer)) == (S.HIBERNATED, 0)
        host.upload_failure = None

        async def is_durable() -> bool:
            return await snapshot_state(observer, "first") is SnapshotState.DURABLE

        await eventually(is_durable, what="the upload")
        await fleet.wake(sandbox, actor="test")
        woken = await until(observer, lambda row: row.state is S.RUNNING)
    assert woken.worker_id == "wk-two"


async def test_the_worker_with_the_local_copy_comes_first(replicas: Any) -> None:
    observer, sandbox = await hibernated(replicas)
    await observer.stores.workers.register(a_worker("wk-aaa", total=resources(1500, disk_mib=10**7)))
    async with replicas.replica("replica-1") as fleet:
        await fleet.wake(sandbox, actor="test")
        woken = await until(observer, lambda row: row.state is S.RUNNING)
    assert woken.worker_id == "wk-one"  # although it would be emptier than the other


async def test_what_cannot_be_loaded_ends_in_error_and_is_kept(replicas: Any) -> None:
    observer, sandbox = await hibernated(replicas)
    replicas.workers.host("wk-one").start_failure = SnapshotUnusable("memory has another digest")
    async with replicas.replica("replica-1") as fleet:
        await fleet.wake(sandbox, actor="test")
        sandbox = await until(observer, lambda row: row.state is S.ERROR and row.worker_id is None)
    assert (sandbox.error_message, sandbox.snapshot_id) == ("memory has another digest", "sn-first")
    assert await committed_mib(observer) == 0
    await collect(observer)
    assert await snapshot_state(observer, "first") is SnapshotState.DURABLE


async def test_a_wake_that_fails_for_the_moment_is_undone_and_may_be_repeated(replicas: Any) -> None:
    observer, sandbox = await hibernated(replicas)
    host = replicas.workers.host("wk-one")
    host.start_failure = HypervisorFailed("QEMU did not start")
    host.start_failures = START_FAILURES_MAX
    async with replicas.replica("replica-1") as fleet:
        operation = await fleet.wake(sandbox, actor="test")
        assert (await until_done(observer, operation.id)).error_message == "QEMU did not start"
        sandbox = await observer.stores.sandboxes.get_any(sandbox.id)
        assert (sandbox.state, await committed_mib(observer)) == (S.HIBERNATED, 0)
        await fleet.wake(sandbox, actor="test")
        await until(observer, lambda row: row.state is S.RUNNING)


async def test_a_machine_that_does_not_come_up_once_fails_no_wake(replicas: Any) -> None:
    observer, sandbox = await hibernated(replicas)
    host = replicas.workers.host("wk-one")
    host.start_failure = HypervisorFailed("QEMU did not answer in time")
    host.start_failures = START_FAILURES_MAX - 1
    async with replicas.replica("replica-1") as fleet:
        operation = await fleet.wake(sandbox, actor="test")
        assert (await until_done(observer, operation.id)).state is OperationState.SUCCEEDED
    assert len(host.vms) == 1


async def test_a_wake_counts_against_the_quota(replicas: Any) -> None:
    observer, sandbox = await hibernated(replicas)
    await observer.stores.organisations.change(ORGANISATION, name=None, quotas=Quotas(sandboxes=0), caps=None)
    async with replicas.replica("replica-1") as fleet:
        with pytest.raises(QuotaExceeded):
            await fleet.wake(sandbox, actor="test")
    assert (await observer.stores.sandboxes.get_any(sandbox.id)).state is S.HIBERNATED


async def test_the_state_before_is_kept_until_the_next_one_is_durable(replicas: Any) -> None:
    observer, sandbox = await hibernated(replicas)
    host = replicas.workers.host("wk-one")
    async with replicas.replica("replica-1") as fleet:
        await fleet.wake(sandbox, actor="test")
        sandbox = await until(observer, lambda row: row.state is S.RUNNING)
        host.upload_failure = "the object store is away"
        await fleet.hibernate(sandbox, ids=ids("second"), actor="test")
        await until_done(observer, "op-second")
        await collect(observer)
        assert await snapshot_state(observer, "first") is SnapshotState.DURABLE
        host.upload_failure = None
        await until(observer, lambda row: row.snapshot_id == "sn-second")
        await collect(observer)
        with pytest.raises(NotFound):
            await snapshot_state(observer, "first")
    assert list(host.saved) == ["sn-second"]


async def test_an_upload_says_how_far_it_is_in_its_operation(replicas: Any) -> None:
    observer, sandbox = await one_running(replicas)
    host = replicas.workers.host("wk-one")
    host.upload_failure, host.uploaded_bytes = "the object store is away", 7

    async def told() -> dict[str, Any]:
        (upload,) = await observer.stores.operations.open_for(sandbox.id)
        return dict(upload.progress)

    async with replicas.replica("replica-1") as fleet:
        await fleet.hibernate(sandbox, ids=ids("first"), actor="test")
        await until_done(observer, "op-first")
        async with asyncio.timeout(60):
            while await told() != {"bytes_done": 7, "bytes_total": SIZE_BYTES}:
                await asyncio.sleep(0.02)
        host.upload_failure = None
        async with asyncio.timeout(60):
            while await snapshot_state(observer, "first") is not SnapshotState.DURABLE:
                await asyncio.sleep(0.02)


async def test_a_restart_of_postgresql_in_the_middle_stops_no_hibernation(
    replicas: Any, postgres_server: Any
) -> None:
    observer, sandbox = await one_running(replicas)
    wire = Tripwire(1, "after")  # the machine is saved, its row says `hibernating`
    plane = wire.around(replicas.plane("replica-1"))
    async with replicas.replica("replica-1", plane=plane) as fleet:
        await fleet.hibernate(sandbox, ids=ids("first"), actor="test")
        await until_hung(wire)
        await asyncio.to_thread(postgres_server.kill)
        wire.may_go_on.set()
        await asyncio.sleep(0.5)
        await asyncio.to_thread(postgres_server.restart)
        await until(observer, lambda row: row.state is S.HIBERNATED)
    assert await snapshot_state(observer, "first") is SnapshotState.DURABLE


# --- checkpoint and restore


async def test_a_checkpoint_is_ready_when_it_is_durable(replicas: Any) -> None:
    observer, sandbox = await one_running(replicas)
    host = replicas.workers.host("wk-one")
    host.upload_failure = "the object store is away"
    async with replicas.replica("replica-1") as fleet:
        await fleet.checkpoint(sandbox, ids=ids("cp"), name="one", actor="test")
        await until_done(observer, "op-cp")
        (checkpoint,) = await observer.stores.checkpoints.list(ORGANISATION, sandbox.id)
        assert (checkpoint.state, checkpoint.size_bytes > 0) == (CheckpointState.PROCESSING, True)
        host.upload_failure = None
        await until(observer, lambda row: row.state is S.RUNNING)
    (checkpoint,) = await observer.stores.checkpoints.list(ORGANISATION, sandbox.id)
    assert (checkpoint.state, bool(checkpoint.ready_at)) == (CheckpointState.READY, True)
    assert list(host.vms) == [sandbox.id]


@pytest.mark.parametrize("point", POINTS)
async def test_a_checkpoint_survives_the_death_of_its_replica_at_any_point(
    replicas: Any, point: tuple[int, str]
) -> None:
    observer, sandbox = await one_running(replicas)
    act: Act = lambda fleet: fleet.checkpoint(sandbox, ids=ids("cp"), name="one", actor="t")  # noqa: E731
    await survive(replicas, observer, act, point)
    await finish_elsewhere(replicas, observer, S.RUNNING)
    (checkpoint,) = await observer.stores.checkpoints.list(ORGANISATION, sandbox.id)
    assert checkpoint.state is CheckpointState.READY


async def test_a_failed_checkpoint_costs_nothing_and_frees_its_name(replicas: Any) -> None:
    observer, sandbox = await one_running(replicas)
    host = replicas.workers.host("wk-one")
    host.save_failure = GuestUnresponsive("agent unresponsive: no answer")
    async with replicas.replica("replica-1") as fleet:
        await fleet.checkpoint(sandbox, ids=ids("cp"), name="one", actor="test")
        await until_done(observer, "op-cp")
        sandbox = await observer.stores.sandboxes.get_any(sandbox.id)
        await fleet.checkpoint(sandbox, ids=ids("cp2"), name="one", actor="test")
        sandbox = await until(observer, lambda row: row.state is S.RUNNING)
    found = await observer.stores.checkpoints.list(ORGANISATION, sandbox.id)
    assert [one.state for one in found] == [CheckpointState.READY, CheckpointState.FAILED]
    assert found[1].error_message == "agent unresponsive: no answer"


async def test_names_are_unique_and_checkpoints_limited(replicas: Any) -> None:
    observer, sandbox = await with_checkpoint(replicas)
    async with replicas.replica("replica-1") as fleet:
        with pytest.raises(Conflict, match="one") as refusal:
            await fleet.checkpoint(sandbox, ids=ids("again"), name="one", actor="test")
        assert refusal.value.code == "name_taken"
        for number in range(9):
            await fleet.checkpoint(sandbox, ids=ids(f"n{number}"), name=f"n{number}", actor="test")
            sandbox = await until(observer, lambda row: row.state is S.RUNNING)
        with pytest.raises(BadRequest) as limit:
            await fleet.checkpoint(sandbox, ids=ids("many"), name="many", actor="test")
        assert limit.value.code == "checkpoint_limit"


async def test_another_organisation_sees_no_checkpoint(replicas: Any) -> None:
    observer, sandbox = await with_checkpoint(replicas)
    other = OrganisationId("00000000-0000-4000-8000-00000000000f")
    assert await observer.stores.checkpoints.list(other, sandbox.id) == []
    for call in (
        observer.stores.checkpoints.get(other, CheckpointId("cp-cp")),
        observer.stores.checkpoints.delete(other, sandbox.id, CheckpointId("cp-cp")),
    ):
        with pytest.raises(NotFound):
            await call


@pytest.mark.parametrize("point", POINTS[:6])
async def test_a_restore_survives_the_death_of_its_replica_at_any_point(
    replicas: Any, point: tuple[int, str]
) -> None:
    observer, sandbox = await with_checkpoint(replicas)
    checkpoint = await observer.stores.checkpoints.get(ORGANISATION, CheckpointId("cp-cp"))
    act: Act = lambda fleet: fleet.restore(sandbox, checkpoint, ids=ids("back"), actor="t")  # noqa: E731
    await survive(replicas, observer, act, point)
    row = await finish_elsewhere(replicas, observer, S.RUNNING)
    host = replicas.workers.host("wk-one")
    assert (row.epoch, host.starts, host.vms[sandbox.id].epoch) == (2, 2, 2)
    assert host.orders[-1].snapshot.is_fork is False


async def test_a_restore_brings_the_size_back_and_reserves_it(replicas: Any) -> None:
    observer, sandbox = await with_checkpoint(replicas)
    checkpoint = await observer.stores.checkpoints.get(ORGANISATION, CheckpointId("cp-cp"))
    async with replicas.replica("replica-1") as fleet:
        for memory_mib, wanted_mib in ((512, 1024), (2048, 1024)):
            await fleet.resize(
                sandbox,
                NewSize(memory_mib=memory_mib, cpu_percent=None),
                operation_id=f"op-{memory_mib}",
                actor="test",
            )
            sandbox = await until(observer, lambda row: row.state is S.RUNNING)
            assert await committed_mib(observer) == memory_mib
            await fleet.restore(sandbox, checkpoint, ids=ids(f"back{memory_mib}"), actor="test")
            sandbox = await until(observer, lambda row: row.state is S.RUNNING)
            assert (sandbox.resources.memory_mib, await committed_mib(observer)) == (wanted_mib, wanted_mib)


async def test_a_restore_that_fails_keeps_the_old_machine(replicas: Any) -> None:
    observer, sandbox = await with_checkpoint(replicas)
    checkpoint = await observer.stores.checkpoints.get(ORGANISATION, CheckpointId("cp-cp"))
    host = replicas.workers.host("wk-one")
    host.start_failure = SnapshotUnusable("memory has another digest")
    async with replicas.replica("replica-1") as fleet:
        await fleet.restore(sandbox, checkpoint, ids=ids("back"), actor="test")
        row = await until(observer, lambda row: row.state is S.RUNNING)
    assert (row.epoch, host.vms[sandbox.id].epoch) == (1, 1)
    assert (await until_done(observer, "op-back")).error_message == "memory has another digest"


@pytest.mark.parametrize("point", POINTS[:4])
async def test_a_kill_wins_against_a_restore_at_any_point(replicas: Any, point: tuple[int, str]) -> None:
    observer, sandbox = await with_checkpoint(replicas)
    checkpoint = await observer.stores.checkpoints.get(ORGANISATION, CheckpointId("cp-cp"))
    wire = Tripwire(*point)
    plane = wire.around(replicas.plane("replica-1"))
    async with replicas.replica("replica-1", plane=plane) as slow, replicas.replica("replica-2") as killer:
        await slow.restore(sandbox, checkpoint, ids=ids("back"), actor="test")
        await until_hung(wire)
        await killer.kill(await observer.stores.sandboxes.get_any(sandbox.id), actor="test")
        wire.may_go_on.set()
        await until(observer, lambda row: row.state is S.STOPPED and row.worker_id is None)
    assert replicas.workers.host("wk-one").vms == {}
    assert (await observer.stores.checkpoints.get(ORGANISATION, checkpoint.id)).state is CheckpointState.READY
