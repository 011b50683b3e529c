"""The `SnapshotSaver` port on QEMU."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

import structlog

from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.qemu import bases, snapshot_files
from sandfleet.adapters.qemu.backings import Backings
from sandfleet.adapters.qemu.describe import require_compatible
from sandfleet.adapters.qemu.host import Host
from sandfleet.adapters.qemu.load import LoadOrder, load
from sandfleet.adapters.qemu.load_for_forks import load_for_forks
from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.adapters.qemu.probe import host_cpu_model
from sandfleet.adapters.qemu.qemu_version import qemu_version
from sandfleet.adapters.qemu.save import SaveOrder, capture, save
from sandfleet.adapters.qemu.template import DATA_FILE, ROOT_FILE, Template
from sandfleet.model.errors import Conflict, HypervisorFailed, SnapshotUnusable
from sandfleet.ports.blobs import StoredFiles
from sandfleet.ports.clock import Clock
from sandfleet.ports.hypervisor import Accelerator, Machine
from sandfleet.ports.snapshots import Fetch, SavedSnapshot
from sandfleet.wire.snapshot_manifest import SnapshotManifest

log = structlog.get_logger("sandfleet.engine")
LOADS_AT_ONCE = 4


class QemuSnapshots:
    """Snapshots of one host's machines. One save or load of a name at a time."""

    def __init__(
        self, host: Host, accelerator: Callable[[], Awaitable[Accelerator]], *, clock: Clock | None = None
    ) -> None:
        self._host = host
        self._accelerator = accelerator
        self._clock = clock or SystemClock()
        self._saving: set[str] = set()
        self._receiving: dict[str, asyncio.Lock] = {}
        self._loading = asyncio.Semaphore(LOADS_AT_ONCE)
        config = host.config
        self.backings = Backings(config.data_dir / "bases", config.templates_dir)

    async def know_backings(self, templates: Iterable[Template]) -> None:
        """Compute the digests of what disks stand on before a guest must stand still for it."""
        for template in templates:
            frozen = [template.file(ROOT_FILE), template.file(DATA_FILE)]
            for path in (*frozen, *map(Path, template.manifest.backing.values())):
                await asyncio.to_thread(self.backings.digest, path)

    async def save(self, machine: Machine, snapshot_id: str) -> SavedSnapshot:
        """Save the machine and end its QEMU."""
        return await self._saved(save, machine, snapshot_id)

    async def capture(self, machine: Machine, snapshot_id: str) -> SavedSnapshot:
        """Save the machine while its guest runs on."""
        return await self._saved(capture, machine, snapshot_id)

    async def load(self, directory: Path, *, owner: str, epoch: int, is_fork: bool = False) -> Machine:
        """Start a machine from a snapshot, or say why it cannot be done."""
        snapshot = await asyncio.to_thread(snapshot_files.read, directory)
        order = LoadOrder(directory, snapshot, owner, epoch)
        memories = self._host.fork_memories
        counted = memories.loading(order.memory_digest) if is_fork else nullcontext()
        with counted:
            async with self._loading:
                await self._require_usable(order)
                limit = self._host.config.load_timeout_s
                try:
                    async with asyncio.timeout(limit):
                        return await self._load(order, is_fork=is_fork)
                except TimeoutError:
                    raise HypervisorFailed(f"the snapshot was not loaded within {limit:g} s") from None

    async def _require_usable(self, order: LoadOrder) -> None:
        """Raise `SnapshotUnusable` when it is damaged, or not for this host."""
        await asyncio.to_thread(snapshot_files.verify, order.directory, order.snapshot)
        version = await qemu_version(self._host.config.qemu_binary)
        accelerator = (await self._accelerator()).name
        require_compatible(
            order.snapshot.shape, qemu_version=version, accelerator=accelerator, host_cpu=host_cpu_model()
        )

    async def _load(self, order: LoadOrder, *, is_fork: bool) -> Machine:
        if not is_fork:
            return await load(self._host, order, self.backings)
        memory = await self._host.fork_memories.found_or_made(
            order.memory_digest,
            size_bytes=order.snapshot.shape.memory_base_mib << 20,
            beside_bytes=order.plugged_bytes_max,
            make=lambda: load_for_forks(self._host, order, self.backings),
        )
        machine = await load(self._host, order, self.backings, memory=memory)
        if memory is not None:
            memory.users.add(machine.manifest.machine_id)
        return machine

    def stored_files(self, manifest: SnapshotManifest) -> StoredFiles:
        """Return where the files of a local snapshot are, and those that back it."""
        directory = snapshot_files.snapshot_dir(self._host.config.data_dir, manifest.snapshot_id)
        return StoredFiles(
            files={name: directory / name for name in manifest.files},
            backings={name: self.backings.require(digest) for name, digest in manifest.backings.items()},
        )

    async def receive(self, manifest: SnapshotManifest, fetch: Fetch) -> SavedSnapshot:
        """Take a snapshot in from elsewhere, once however many ask for it."""
        data_dir = self._host.config.data_dir
        final = snapshot_files.snapshot_dir(data_dir, manifest.snapshot_id)
        async with self._receiving.setdefault(manifest.snapshot_id, asyncio.Lock()):
            if not final.is_dir():
                with snapshot_files.staging(data_dir) as directory:
                    await self._host.faults.at("receive.begun")
                    wanted = await asyncio.to_thread(self._wanted, manifest, directory)
                    await fetch(wanted)
                    await self._host.faults.at("receive.fetched")
                    await asyncio.to_thread(
                        snapshot_files.publish, directory, manifest, final, ended_machine=None
                    )
                    await self._host.faults.at("receive.published")
        self._receiving.pop(manifest.snapshot_id, None)
        return await asyncio.to_thread(_found, final)

    def _wanted(self, manifest: SnapshotManifest, directory: Path) -> StoredFiles:
        """Return the paths of all files of the snapshot, and of those backings that this host lacks."""
        return StoredFiles(
            files={name: directory / name for name in manifest.files},
            backings={
                name: self.backings.place(digest)
                for name, digest in manifest.backings.items()
                if self.backings.find(digest) is None
            },
        )

    def find(self, snapshot_id: str) -> SavedSnapshot | None:
        """Return the complete snapshot of this name."""
        directory = snapshot_files.snapshot_dir(self._host.config.data_dir, snapshot_id)
        return _found(directory) if directory.is_dir() else None

    async def local_snapshots(self) -> list[SavedSnapshot]:
        """Return all complete snapshots of this host."""
        directories = await asyncio.to_thread(snapshot_files.complete, self._host.config.data_dir)
        found: list[SavedSnapshot] = []
        for directory in directories:
            try:
                found.append(await asyncio.to_thread(_found, directory))
            except SnapshotUnusable as error:
                log.warning("snapshot_unusable", snapshot=directory.name, reason=error.message)
        return found

    async def drop(self, snapshot_id: str) -> bool:
        """Remove the local files: first the name, so that a half-removed snapshot is nobody's."""
        directory = snapshot_files.snapshot_dir(self._host.config.data_dir, snapshot_id)
        if not directory.is_dir():
            return False
        await asyncio.to_thread(_remove, directory)
        await self.collect_bases()
        return True

    async def collect_bases(self) -> None:
        """Remove fetched backings that nothing stands on any more."""
        removed = await asyncio.to_thread(
            bases.collect,
            self._host.config.data_dir,
            self.backings.directory,
            now_s=self._clock.now().timestamp(),
        )
        if removed:
            log.info("bases_removed", names=removed)

    async def _saved(
        self,
        work: Callable[[Host, QemuMachine, SaveOrder], Awaitable[SavedSnapshot]],
        machine: Machine,
        snapshot_id: str,
    ) -> SavedSnapshot:
        if not isinstance(machine, QemuMachine):
            raise HypervisorFailed("not a machine of this host")
        if snapshot_id in self._saving:
            raise Conflict(f"snapshot {snapshot_id} is being taken", code="busy")
        if self.find(snapshot_id) is not None:
            raise Conflict(f"snapshot {snapshot_id} exists", code="busy")
        self._saving.add(snapshot_id)
        try:
            return await work(self._host, machine, SaveOrder(snapshot_id, self.backings, self._clock))
        finally:
            self._saving.discard(snapshot_id)


def _found(directory: Path) -> SavedSnapshot:
    manifest = snapshot_files.read(directory)
    try:
        size = snapshot_files.size_bytes(directory, manifest)
    except OSError as error:
        raise SnapshotUnusable(f"snapshot {directory.name} lacks a file: {error.filename}") from error
    return SavedSnapshot(manifest=manifest, directory=directory, size_bytes=size, pause_s=0.0)


def _remove(directory: Path) -> None:
    gone = directory.with_name(f"{snapshot_files.PARTIAL_PREFIX}dropped-{directory.name}")
    shutil.rmtree(gone, ignore_errors=True)
    directory.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
