"""Snapshots of a fake host's machines (port: `ports.snapshots.SnapshotSaver`).

The directories are real, so that what a worker leaves beside a snapshot can be looked at; what a
guest held is not kept: a loaded machine is a new guest.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from sandfleet.adapters.sparse_files import digest_of
from sandfleet.model.errors import SnapshotUnusable
from sandfleet.ports.blobs import StoredFiles
from sandfleet.ports.hypervisor import Machine, MachineOrder
from sandfleet.ports.snapshots import Fetch, SavedSnapshot
from sandfleet.testing.fake_hypervisor import FakeHypervisor, FakeMachine
from sandfleet.testing.fake_snapshots import a_manifest
from sandfleet.wire.snapshot_manifest import SnapshotManifest
from sandfleet.wire.worker_messages import VmStatus

PAUSE_S = 0.02


class FakeSaver:
    """The snapshots of one fake host, in a directory of the test's."""

    def __init__(self, host: FakeHypervisor, directory: Path) -> None:
        self._host = host
        self.directory = directory
        self.loads = 0

    async def save(self, machine: Machine, snapshot_id: str) -> SavedSnapshot:
        """Write a snapshot and end the machine."""
        await self._host.faults.at("save")
        saved = self._write(machine, snapshot_id)
        assert isinstance(machine, FakeMachine)
        await machine.crash("saved")
        return saved

    async def capture(self, machine: Machine, snapshot_id: str) -> SavedSnapshot:
        """Write a snapshot."""
        await self._host.faults.at("capture")
        return self._write(machine, snapshot_id)

    async def load(self, directory: Path, *, owner: str, epoch: int) -> Machine:
        """Start a machine of the sizes that the snapshot says."""
        await self._host.faults.at("load")
        if not (directory / "memory").exists():
            raise SnapshotUnusable(f"snapshot {directory.name} lacks its memory")
        self.loads += 1
        manifest = self._found(directory).manifest
        order = MachineOrder(manifest.template, manifest.memory_mib, manifest.cpu_count, manifest.disk_mib)
        machine = await self._host.clone(order)
        await machine.assign(owner, epoch=epoch)
        await machine.limit_cpu(manifest.cpu_percent)
        return machine

    def stored_files(self, manifest: SnapshotManifest) -> StoredFiles:
        """Return where the files are."""
        directory = self.directory / manifest.snapshot_id
        return StoredFiles(files={name: directory / name for name in manifest.files}, backings={})

    async def receive(self, manifest: SnapshotManifest, fetch: Fetch) -> SavedSnapshot:
        """Take one in from a store."""
        directory = self.directory / manifest.snapshot_id
        directory.mkdir(parents=True)
        try:
            await fetch(self.stored_files(manifest))
        except BaseException:
            shutil.rmtree(directory)
            raise
        (directory / "manifest.json").write_bytes(msgspec.json.encode(manifest))
        return self._found(directory)

    def find(self, snapshot_id: str) -> SavedSnapshot | None:
        """Return a complete one."""
        directory = self.directory / snapshot_id
        return self._found(directory) if (directory / "manifest.json").exists() else None

    async def local_snapshots(self) -> list[SavedSnapshot]:
        """Return all complete ones."""
        return [self._found(path.parent) for path in sorted(self.directory.glob("*/manifest.json"))]

    async def drop(self, snapshot_id: str) -> bool:
        """Remove one."""
        await self._host.faults.at("drop")
        existed = (self.directory / snapshot_id).is_dir()
        shutil.rmtree(self.directory / snapshot_id, ignore_errors=True)
        return existed

    def _write(self, machine: Machine, snapshot_id: str) -> SavedSnapshot:
        facts, directory = machine.facts, self.directory / snapshot_id
        directory.mkdir(parents=True)
        for name in ("memory", "root-0", "data-0"):
            (directory / name).write_text(f"{name} of {facts.machine_id} in {snapshot_id}")
        order = facts.order
        vm = VmStatus(
            sandbox_id=facts.owner or "",
            epoch=facts.epoch,
            state="running",
            memory_mib=order.memory_mib,
            cpu_count=order.cpu_count,
            disk_mib=order.disk_mib,
            template=order.template,
            template_version=facts.template_version,
        )
        files = {name: digest_of(directory / name) for name in ("memory", "root-0", "data-0")}
        manifest = msgspec.structs.replace(
            a_manifest(snapshot_id, vm),
            files=files,
            root=["root-0"],
            data=["data-0"],
            backings={},
            cpu_percent=facts.cpu_percent,
        )
        (directory / "manifest.json").write_bytes(msgspec.json.encode(manifest))
        return self._found(directory)

    @staticmethod
    def _found(directory: Path) -> SavedSnapshot:
        manifest = msgspec.json.decode((directory / "manifest.json").read_bytes(), type=SnapshotManifest)
        return SavedSnapshot(manifest=manifest, directory=directory, size_bytes=100, pause_s=PAUSE_S)
