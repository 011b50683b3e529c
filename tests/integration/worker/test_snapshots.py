"""Hibernate, capture, load and upload over HTTP, on a fake host and a real directory as the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.integration.worker.harness import RunningWorker, a_worker, fake_host, until

from sandfleet.adapters.blobs.objects import Objects
from sandfleet.adapters.blobs.snapshot_store import ObjectSnapshotStore
from sandfleet.adapters.clock import SystemClock
from sandfleet.model.errors import BlobsUnavailable, GuestUnresponsive, HypervisorFailed
from sandfleet.testing.fake_hypervisor import FakeHypervisor
from sandfleet.testing.fake_snapshot_saver import PAUSE_S, FakeSnapshotSaver
from sandfleet.wire.worker_messages import SnapshotSource
from sandfleet.worker.operations.upload_snapshot import resume_uploads
from sandfleet.worker.uploads import DURABLE_FILE

ID = "sb-one"


@asynccontextmanager
async def a_keeping_worker(
    tmp_path: Path, hypervisor: FakeHypervisor | None = None, *, place: str = "one"
) -> AsyncIterator[RunningWorker]:
    """Serve a worker that keeps snapshots in `tmp_path / place` and stores them in `tmp_path / store`."""
    if hypervisor is None:
        async with FakeHypervisor() as made, a_keeping_worker(tmp_path, made, place=place) as worker:
            yield worker
        return
    objects = Objects.open((tmp_path / "store").as_uri())
    async with a_worker(hypervisor) as worker:
        worker.host.snapshots = FakeSnapshotSaver(hypervisor, tmp_path / place)
        worker.host.store = ObjectSnapshotStore(objects, clock=SystemClock())
        await resume_uploads(worker.host)
        yield worker
    objects.close()


async def post(worker: RunningWorker, path: str, **order: Any) -> tuple[int, dict[str, Any]]:
    return await send(worker, "POST", path, **{"epoch": 1, **order})


async def send(worker: RunningWorker, method: str, path: str, **order: Any) -> tuple[int, dict[str, Any]]:
    async with worker.http.request(method, path, data=msgspec.json.encode(order)) as answer:
        return answer.status, await answer.json()


async def hibernate(
    worker: RunningWorker, snapshot_id: str = "s-1", **order: Any
) -> tuple[int, dict[str, Any]]:
    return await post(worker, f"/vms/{ID}/hibernate", snapshot_id=snapshot_id, **order)


async def capture(worker: RunningWorker, snapshot_id: str = "s-1") -> tuple[int, dict[str, Any]]:
    return await post(worker, f"/vms/{ID}/capture", snapshot_id=snapshot_id)


async def durable(worker: RunningWorker, snapshot_id: str = "s-1") -> None:
    status, _body = await send(worker, "PUT", f"/snapshots/{snapshot_id}")
    assert status == 200
    saver = worker.host.require_snapshots()

    def is_durable() -> bool:
        saved = saver.find(snapshot_id)
        return saved is not None and (saved.directory / DURABLE_FILE).exists()

    await until(is_durable)


async def test_a_hibernated_sandbox_leaves_its_snapshot_and_nothing_else(tmp_path: Path) -> None:
    async with a_keeping_worker(tmp_path) as worker:
        await worker.start(ID)
        status, body = await hibernate(worker)
        assert (status, body["snapshot_id"], body["pause_ms"]) == (200, "s-1", PAUSE_S * 1000)
        assert body["manifest"]["owner"] == ID
        assert not fake_host(worker).machines
        assert (await worker.vm(ID))[0] == 404
        assert worker.host.residents.committed_mib == 0
        again = await hibernate(worker)
        assert (again[0], again[1]["manifest"]) == (200, body["manifest"])
        assert (await worker.start(ID))[1]["code"] == "moved"
        assert (await post(worker, "/vms/sb-two/hibernate", snapshot_id="s-1"))[0] == 409


async def test_a_sandbox_in_use_is_not_hibernated_for_idleness(tmp_path: Path) -> None:
    async with a_keeping_worker(tmp_path) as worker:
        await worker.start(ID)
        status, body = await hibernate(worker, idle_since_s=60)
        assert (status, body["code"]) == (409, "busy")
        assert (await worker.run(ID, {"cmd": "true"}))[0] == 200
        assert (await hibernate(worker, epoch=0))[1]["code"] == "moved"
        assert (await post(worker, "/vms/sb-none/hibernate", snapshot_id="s-1"))[0] == 404


@pytest.mark.parametrize(
    ("error", "status"), [(HypervisorFailed("no space"), 500), (GuestUnresponsive("it is silent"), 504)]
)
async def test_a_save_that_fails_leaves_the_sandbox_served(
    tmp_path: Path, error: Exception, status: int
) -> None:
    async with a_keeping_worker(tmp_path) as worker:
        await worker.start(ID)
        fake_host(worker).faults.fail("save", error)
        assert (await hibernate(worker))[0] == status
        assert (await worker.vm(ID))[1]["state"] == "running"
        assert (await worker.run(ID, {"cmd": "true"}))[0] == 200
        assert (await hibernate(worker, "s-2"))[0] == 200


async def test_a_late_copy_of_an_order_that_was_refused_saves_nothing(tmp_path: Path) -> None:
    async with a_keeping_worker(tmp_path) as worker:
        await worker.start(ID)
        fake_host(worker).faults.fail("save", HypervisorFailed("no space"))
        for _ in range(2):
            status, body = await hibernate(worker)
            assert (status, body["code"]) == (500, "internal")
        assert (await worker.vm(ID))[1]["state"] == "running"


async def test_while_it_is_saved_work_is_sent_on_its_way_and_the_same_order_joins(tmp_path: Path) -> None:
    async with a_keeping_worker(tmp_path) as worker:
        await worker.start(ID)
        faults = fake_host(worker).faults
        faults.hold("save")
        async with asyncio.TaskGroup() as group:
            saves = [group.create_task(hibernate(worker)) for _ in range(3)]
            await faults.reached("save")
            assert (await worker.run(ID, {"cmd": "true"}))[1]["code"] == "moved"
            assert (await worker.vm(ID))[1]["state"] == "saving"
            assert (await hibernate(worker, "s-other"))[1]["code"] == "busy"
            faults.release("save")
        assert [save.result()[0] for save in saves] == [200] * 3


async def test_kill_wins_over_a_save(tmp_path: Path) -> None:
    async with a_keeping_worker(tmp_path) as worker:
        await worker.start(ID)
        faults = fake_host(worker).faults
        faults.hold("save")
        async with asyncio.TaskGroup() as group:
            saving = group.create_task(hibernate(worker))
            await faults.reached("save")
            assert (await worker.stop(ID))[0] == 200
        assert saving.result()[0] == 503
        assert not fake_host(worker).machines
        assert (await worker.vm(ID))[0] == 404


async def test_a_wake_is_the_same_sandbox_and_a_fork_is_another(tmp_path: Path) -> None:
    async with a_keeping_worker(tmp_path) as worker:
        await worker.start(ID)
        await hibernate(worker)
        assert (await worker.start(ID, epoch=2, snapshot=SnapshotSource(snapshot_id="s-1")))[0] == 200
        source = SnapshotSource(snapshot_id="s-1", is_fork=True)
        assert (await worker.start("sb-fork", snapshot=source, envs={"A": "1"}))[0] == 200
        woken, fork = fake_host(worker).machines.values()
        assert (woken.guest.identities[-1].host_name, woken.guest.identities[-1].renew) == (ID, False)
        identity = fork.guest.identities[-1]
        assert (identity.host_name, identity.renew, identity.envs) == ("sb-fork", True, {"A": "1"})
        assert identity.seed != woken.guest.identities[-1].seed


async def test_a_fork_that_cannot_be_renewed_is_destroyed(tmp_path: Path) -> None:
    async with a_keeping_worker(tmp_path) as worker:
        await worker.start(ID)
        await capture(worker)
        fake_host(worker).faults.fail("assume_identity", GuestUnresponsive("it is silent"))
        source = SnapshotSource(snapshot_id="s-1", is_fork=True)
        assert (await worker.start("sb-fork", snapshot=source))[0] == 504
        assert [machine.facts.owner for machine in fake_host(worker).machines.values()] == [ID]
        assert (await worker.vm("sb-fork"))[0] == 404


async def test_a_restore_keeps_the_old_vm_until_the_new_one_answers(tmp_path: Path) -> None:
    async with a_keeping_worker(tmp_path) as worker:
        await worker.start(ID)
        await capture(worker)
        (old,) = fake_host(worker).machines
        source = SnapshotSource(snapshot_id="s-1")
        fake_host(worker).faults.fail("load", HypervisorFailed("the host said no"))
        assert (await worker.start(ID, epoch=2, snapshot=source))[0] == 500
        assert list(fake_host(worker).machines) == [old]
        assert (await worker.run(ID, {"cmd": "true"}))[0] == 200
        assert (await worker.start(ID, epoch=3, snapshot=source))[1]["epoch"] == 3
        (new,) = fake_host(worker).machines
        assert new != old
        assert (await worker.run(ID, {"cmd": "true"}, epoch=3))[0] == 200


async def test_a_restore_needs_room_for_both_vms(tmp_path: Path) -> None:
    async with a_keeping_worker(tmp_path) as worker:
        await worker.start(ID)
        await capture(worker)
        mib = worker.host.residents.committed_mib
        worker.host.limits = replace(worker.host.limits, memory_budget_mib=2 * mib - 1)
        source = SnapshotSource(snapshot_id="s-1")
        status, body = await worker.start(ID, epoch=2, snapshot=source)
        assert (status, body["code"]) == (503, "no_capacity")
        assert (await worker.run(ID, {"cmd": "true"}))[0] == 200  # the old one goes on
        worker.host.limits = replace(worker.host.limits, memory_budget_mib=2 * mib)
        fake_host(worker).faults.hold("load")
        async with asyncio.TaskGroup() as group:
            restoring = group.create_task(worker.start(ID, epoch=2, snapshot=source))
            await fake_host(worker).faults.reached("load")
            assert worker.host.residents.committed_mib == 2 * mib
            fake_host(worker).faults.release("load")
        assert restoring.result()[0] == 200
        assert worker.host.residents.committed_mib == mib


async def test_a_load_gives_the_sizes_that_are_asked_for(tmp_path: Path) -> None:
    async with a_keeping_worker(tmp_path) as worker:
        await worker.start(ID)
        (machine,) = fake_host(worker).machines.values()
        await machine.limit_cpu(50)
        await capture(worker)
        source = SnapshotSource(snapshot_id="s-1", is_fork=True)
        await worker.start("sb-fork", cpu_count=3, snapshot=source)
        await worker.start("sb-slow", cpu_percent=50, snapshot=source)
        limits = {
            machine.facts.owner: (machine.facts.order.cpu_count, machine.facts.cpu_percent)
            for machine in fake_host(worker).machines.values()
        }
        # Not what the snapshot says, but what is recorded of each sandbox.
        assert limits == {ID: (1, 50), "sb-fork": (3, None), "sb-slow": (1, 50)}


async def test_nothing_starts_without_the_snapshot_that_was_asked_for(tmp_path: Path) -> None:
    async with a_keeping_worker(tmp_path) as worker:
        status, body = await worker.start(ID, snapshot=SnapshotSource(snapshot_id="s-none"))
        assert (status, body["code"]) == (422, "snapshot_unusable")
        assert fake_host(worker).clones == 0
        assert worker.host.residents.committed_mib == 0


async def test_another_worker_loads_what_was_made_durable_and_nothing_else(tmp_path: Path) -> None:
    async with a_keeping_worker(tmp_path) as first, a_keeping_worker(tmp_path, place="two") as second:
        await first.start(ID)
        await hibernate(first)
        source = SnapshotSource(snapshot_id="s-1")
        assert (await second.start(ID, epoch=2, snapshot=source))[0] == 422
        await durable(first)
        assert (await second.start(ID, epoch=3, snapshot=source))[0] == 200
        states = await send(second, "GET", "/snapshots")
        assert [state["snapshot_id"] for state in states[1]] == ["s-1"]  # type: ignore[index]


async def test_a_local_copy_that_is_damaged_is_replaced_by_the_stored_one(tmp_path: Path) -> None:
    async with a_keeping_worker(tmp_path) as worker:
        await worker.start(ID)
        await hibernate(worker)
        memory = tmp_path / "one" / "s-1" / "memory"
        content = memory.read_bytes()
        memory.unlink()
        source = SnapshotSource(snapshot_id="s-1")
        assert (await worker.start(ID, epoch=2, snapshot=source))[1]["code"] == "snapshot_unusable"
        memory.write_bytes(content)
        await durable(worker)
        memory.unlink()
        assert (await worker.start(ID, epoch=3, snapshot=source))[0] == 200


async def test_an_upload_goes_on_after_the_death_of_its_process(tmp_path: Path) -> None:
    async with FakeHypervisor() as hypervisor:
        async with a_keeping_worker(tmp_path, hypervisor) as worker:
            await worker.start(ID)
            await hibernate(worker)

            async def unreachable(*_: object, **__: object) -> int:
                raise BlobsUnavailable("the store is down")

            store = worker.host.require_store()
            store.put = unreachable  # type: ignore[method-assign]
            status, body = await send(worker, "PUT", "/snapshots/s-1")
            assert (status, body["state"]) == (200, "uploading")
        async with a_keeping_worker(tmp_path, hypervisor) as worker:
            await until(lambda: (tmp_path / "one" / "s-1" / DURABLE_FILE).exists())
            assert (await send(worker, "PUT", "/snapshots/s-1"))[1]["state"] == "durable"
            assert await send(worker, "DELETE", "/snapshots/s-1") == (
                200,
                {"snapshot_id": "s-1", "existed": True},
            )
            assert (await send(worker, "DELETE", "/snapshots/s-1"))[1]["existed"] is False
            assert (await send(worker, "PUT", "/snapshots/s-1"))[0] == 404
            assert (await worker.start(ID, epoch=2, snapshot=SnapshotSource(snapshot_id="s-1")))[0] == 200


async def test_a_capture_is_activity_and_the_same_id_is_one(tmp_path: Path) -> None:
    async with a_keeping_worker(tmp_path) as worker:
        await worker.start(ID)
        faults = fake_host(worker).faults
        faults.hold("capture")
        async with asyncio.TaskGroup() as group:
            captures = [group.create_task(capture(worker)) for _ in range(2)]
            await faults.reached("capture")
            assert (await worker.stop(ID, idle_since_s=0))[1]["code"] == "busy"
            assert (await worker.run(ID, {"cmd": "true"}))[0] == 200
            faults.release("capture")
        assert [taken.result()[0] for taken in captures] == [200, 200]
        assert (await worker.vm(ID))[1]["state"] == "running"


async def test_a_guest_with_a_full_disk_is_not_saved(tmp_path: Path) -> None:
    async with a_keeping_worker(tmp_path) as worker:
        await worker.start(ID)
        (machine,) = fake_host(worker).machines.values()
        machine.guest.disk_used_share = 0.97
        for verb in (hibernate, capture):
            status, body = await verb(worker)
            assert (status, body["code"]) == (409, "guest_disk_full")
            assert "97" in body["error"]
        assert (await worker.run(ID, {"cmd": "true"}))[0] == 200
