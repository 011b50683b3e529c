"""A real worker around real guests: sleeps here, wakes elsewhere, and forks that are others."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.integration.worker.harness import RunningWorker, a_worker, until
from tests.vm.conftest import make_hypervisor, short_directory

from sandfleet.adapters.blobs.objects import Objects
from sandfleet.adapters.blobs.snapshot_store import ObjectSnapshotStore
from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.qemu.config import ImageFiles
from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.wire.snapshot_manifest import SnapshotManifest
from sandfleet.wire.worker_messages import SnapshotSource
from sandfleet.worker.uploads import is_durable

ID = "sb-one"
SIZES = {"memory_mib": 512, "disk_mib": 20480, "cpu_count": 1}
FORKS_AT_ONCE = 4

WHO = (
    "cat /etc/machine-id; hostname; head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/uuid;"
    "python3 -c 'import os, ssl; print(os.urandom(16).hex()); print(ssl.RAND_bytes(16).hex())'"
)


@asynccontextmanager
async def a_real_worker(
    data_dir: Path, templates_dir: Path, image: ImageFiles, store: Path
) -> AsyncIterator[RunningWorker]:
    """Serve a worker on its own engine, with the object store in a directory."""
    engine, network = make_hypervisor(data_dir, templates_dir, image)
    objects = Objects.open(store.as_uri())
    try:
        async with a_worker(engine, is_adopted=False) as worker:
            worker.host.snapshots = engine.snapshots
            worker.host.store = ObjectSnapshotStore(objects, clock=SystemClock())
            worker.host.is_adopted = True
            try:
                yield worker
            finally:
                for resident in worker.host.residents:
                    if isinstance(resident.machine, QemuMachine):
                        await resident.machine.destroy()
    finally:
        for machine in await engine.adopt():
            await machine.destroy()
        await engine.sweep()
        await network.withdraw()
        objects.close()


async def order(worker: RunningWorker, method: str, path: str, **fields: Any) -> dict[str, Any]:
    async with worker.http.request(method, path, data=msgspec.json.encode(fields)) as answer:
        body: dict[str, Any] = await answer.json()
        assert answer.status == 200, body
        return body


async def said(worker: RunningWorker, script: str, *, sandbox_id: str = ID, epoch: int = 1) -> str:
    command = {"cmd": "sh", "args": ["-c", script], "timeout": 600}
    status, body = await worker.run(sandbox_id, command, epoch=epoch)
    assert (status, body["exitCode"]) == (200, 0), body
    return str(body["stdout"])


async def test_a_sandbox_sleeps_on_one_worker_and_wakes_on_one_that_has_nothing_of_it(
    data_dir: Path, template_dir: Path, image: ImageFiles, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    async with a_real_worker(data_dir, template_dir, image, store) as first:
        await first.start(ID, **SIZES)
        await said(
            first, "echo kept > /workspace/x; (while :; do date +%s >> /workspace/beat; sleep 0.2; done) &"
        )
        saved = await order(first, "POST", f"/vms/{ID}/hibernate", epoch=1, snapshot_id="s-1")
        await order(first, "PUT", "/snapshots/s-1")
        directory = data_dir / "snapshots" / "s-1"
        await until(lambda: is_durable(directory), within_s=300)
        assert (await order(first, "DELETE", "/snapshots/s-1"))["existed"]
    with short_directory() as elsewhere:
        empty = elsewhere / "templates"
        empty.mkdir()
        shutil.copy(template_dir / "accelerator.json", empty)
        async with a_real_worker(elsewhere, empty, image, store) as second:
            manifest = msgspec.json.decode(msgspec.json.encode(saved["manifest"]), type=SnapshotManifest)
            source = SnapshotSource(snapshot_id="s-1", manifest=manifest)
            status, body = await second.start(ID, epoch=2, snapshot=source, **SIZES)
            assert status == 200, body
            # This host's template was made here, of other bytes: the sandbox's own came along.
            assert list((elsewhere / "bases").glob("*.qcow2"))
            script = (
                "echo 3 | sudo tee /proc/sys/vm/drop_caches >/dev/null; "
                "cat /workspace/x; wc -l < /workspace/beat"
            )
            kept, before = (await said(second, script, epoch=2)).splitlines()
            assert kept == "kept"
            # What beat in the saved guest beats on in the woken one.
            async with asyncio.timeout(120):
                while int((await said(second, script, epoch=2)).splitlines()[1]) <= int(before):
                    await asyncio.sleep(0.2)


@pytest.mark.parametrize("count", [30, pytest.param(100, marks=pytest.mark.chaos)])
@pytest.mark.timeout(1800)
async def test_so_many_forks_are_so_many_others(
    data_dir: Path, template_dir: Path, image: ImageFiles, tmp_path: Path, count: int
) -> None:
    async with a_real_worker(data_dir, template_dir, image, tmp_path / "store") as worker:
        await worker.start(ID, **SIZES)
        parent = await said(worker, WHO)
        await order(worker, "POST", f"/vms/{ID}/capture", epoch=1, snapshot_id="origin")
        source = SnapshotSource(snapshot_id="origin", is_fork=True)
        room = asyncio.Semaphore(FORKS_AT_ONCE)

        async def fork(number: int) -> str:
            name = f"sb-fork-{number}"
            async with room:
                status, body = await worker.start(name, snapshot=source, **SIZES)
                assert status == 200, body
                asked_at_s = SystemClock().now().timestamp()
                who = await said(worker, f"{WHO}; date +%s.%N", sandbox_id=name)
                told_at_s = SystemClock().now().timestamp()
                assert (await worker.stop(name))[0] == 200
            *values, clock = who.split("\n")[:-1]
            assert asked_at_s - 2 < float(clock) < told_at_s + 2
            return "\n".join(values)

        async with asyncio.TaskGroup() as group:
            forks = [group.create_task(fork(number)) for number in range(count)]
        everybody = [parent.rstrip("\n"), *(task.result() for task in forks)]
        for values in zip(*(who.split("\n") for who in everybody), strict=True):
            assert len(set(values)) == count + 1, sorted(values)[:5]
