"""Snapshots of a fake host's machines, as real files (port: `ports.snapshots.SnapshotSaver`).

What a guest has is written to files that a real object store takes, so that only the virtual
machine is missing: a copy that was changed on its way is refused as by the real engine.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import shutil
from pathlib import Path

import msgspec

from sandfleet.adapters.sparse_files import digest_of
from sandfleet.model.errors import SnapshotUnusable
from sandfleet.ports.blobs import StoredFiles
from sandfleet.ports.hypervisor import Machine, MachineOrder
from sandfleet.ports.snapshots import Fetch, SavedSnapshot
from sandfleet.testing.fake_hypervisor import FakeHypervisor, FakeMachine
from sandfleet.wire.snapshot_manifest import MEMORY_FILE, SnapshotManifest, SnapshotShape

MANIFEST_FILE = "manifest.json"
PAUSE_S = 0.012
_BASE, _BASE_CONTENT = "base", b"the same below every disk"
_SHAPE = SnapshotShape(
    qemu_version="fake",
    machine_type="fake",
    accelerator="fake",
    cpu_model="fake",
    host_cpu="fake",
    cpu_max=4,
    memory_base_mib=512,
    memory_max_mib=65536,
    memory_block_mib=128,
)


class FakeSnapshotSaver:
    """Saves below `directory`; the machines are those of the fake host."""

    def __init__(self, hypervisor: FakeHypervisor, directory: Path) -> None:
        self._hypervisor = hypervisor
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        (directory / _BASE).write_bytes(_BASE_CONTENT)

    async def save(self, machine: Machine, snapshot_id: str) -> SavedSnapshot:
        """Save it and end it."""
        await self._hypervisor.faults.at("save")
        saved = await self._saved(machine, snapshot_id)
        assert isinstance(machine, FakeMachine)
        await machine.crash("saved")
        return saved

    async def capture(self, machine: Machine, snapshot_id: str) -> SavedSnapshot:
        """Save it as it is now."""
        await self._hypervisor.faults.at("capture")
        return await self._saved(machine, snapshot_id)

    async def load(self, directory: Path, *, owner: str, epoch: int, is_fork: bool = False) -> FakeMachine:
        """Start a machine that has what was saved."""
        await self._hypervisor.faults.at("load")
        manifest = _manifest(directory)
        for name, file in manifest.files.items():
            if not (directory / name).exists() or digest_of(directory / name) != file:
                raise SnapshotUnusable(f"{name} of snapshot {manifest.snapshot_id} is not what was saved")
        guest = msgspec.json.decode((directory / MEMORY_FILE).read_bytes(), type=dict[str, str])
        order = MachineOrder(
            template=manifest.template,
            memory_mib=manifest.memory_mib,
            cpu_count=manifest.cpu_count,
            disk_mib=manifest.disk_mib,
            network_enabled=manifest.network_enabled,
        )
        machine = await self._hypervisor.clone(order)
        machine.guest.files.files.update({path: base64.b64decode(content) for path, content in guest.items()})
        await machine.assign(owner, epoch=epoch)
        await machine.limit_cpu(manifest.cpu_percent)
        return machine

    def stored_files(self, manifest: SnapshotManifest) -> StoredFiles:
        """Return where its files are."""
        directory = self._directory / manifest.snapshot_id
        return StoredFiles(
            files={name: directory / name for name in manifest.files},
            backings={_BASE: self._directory / _BASE},
        )

    async def receive(self, manifest: SnapshotManifest, fetch: Fetch) -> SavedSnapshot:
        """Take it in."""
        directory = self._directory / manifest.snapshot_id
        directory.mkdir(exist_ok=True)
        try:
            await fetch(StoredFiles(self.stored_files(manifest).files, backings={}))
        except BaseException:
            shutil.rmtree(directory)
            raise
        (directory / MANIFEST_FILE).write_bytes(msgspec.json.encode(manifest))
        return _saved_in(directory)

    def find(self, snapshot_id: str) -> SavedSnapshot | None:
        """Return it if it is complete."""
        directory = self._directory / snapshot_id
        return _saved_in(directory) if (directory / MANIFEST_FILE).exists() else None

    async def local_snapshots(self) -> list[SavedSnapshot]:
        """Return all that are complete."""
        return [_saved_in(path.parent) for path in sorted(self._directory.glob(f"*/{MANIFEST_FILE}"))]

    async def drop(self, snapshot_id: str) -> bool:
        """Remove it."""
        await self._hypervisor.faults.at("drop")
        directory = self._directory / snapshot_id
        existed = directory.exists()
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        return existed

    async def _saved(self, machine: Machine, snapshot_id: str) -> SavedSnapshot:
        assert isinstance(machine, FakeMachine)
        directory = self._directory / snapshot_id
        directory.mkdir(exist_ok=True)
        guest = {
            path: base64.b64encode(content).decode() for path, content in machine.guest.files.files.items()
        }
        (directory / MEMORY_FILE).write_bytes(msgspec.json.encode(guest))
        facts = machine.facts
        manifest = SnapshotManifest(
            snapshot_id=snapshot_id,
            owner=facts.owner or "",
            epoch=facts.epoch,
            taken_at_s=0,
            template=facts.order.template,
            template_version=facts.template_version,
            image_digest="fake",
            memory_mib=facts.order.memory_mib,
            cpu_count=facts.order.cpu_count,
            disk_mib=facts.order.disk_mib,
            network_enabled=facts.order.network_enabled,
            cpu_percent=facts.cpu_percent,
            shape=_SHAPE,
            files={MEMORY_FILE: digest_of(directory / MEMORY_FILE)},
            root=[_BASE],
            data=[_BASE],
            backings={_BASE: hashlib.sha256(_BASE_CONTENT).hexdigest()},
        )
        (directory / MANIFEST_FILE).write_bytes(msgspec.json.encode(manifest))
        return _saved_in(directory)


def _manifest(directory: Path) -> SnapshotManifest:
    return msgspec.json.decode((directory / MANIFEST_FILE).read_bytes(), type=SnapshotManifest)


def _saved_in(directory: Path) -> SavedSnapshot:
    size_bytes = sum(file.size for file in _manifest(directory).files.values())
    return SavedSnapshot(_manifest(directory), directory, size_bytes=size_bytes, pause_s=PAUSE_S)
