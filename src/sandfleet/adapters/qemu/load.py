"""Starting a machine from a snapshot: the memory and disks of one instant, or nothing at all.

Its memory is its own, or a private mapping of what the snapshot's forks share; its disks are
new overlays on the snapshot's layers, which the machine links to, so that it does not depend
on how long the snapshot is kept.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from sandfleet.adapters.qemu import migration, snapshot_files
from sandfleet.adapters.qemu.backings import Backings
from sandfleet.adapters.qemu.chains import first_chain, new_layer_name, virtual_size
from sandfleet.adapters.qemu.clone import connect, seat
from sandfleet.adapters.qemu.config import AGENT_SOCKET, QMP_SOCKET
from sandfleet.adapters.qemu.describe import machine_order, machine_shape, spawned_for
from sandfleet.adapters.qemu.empty_overlay import write_empty_overlay
from sandfleet.adapters.qemu.erase import end_process
from sandfleet.adapters.qemu.fork_memory import ForkMemory
from sandfleet.adapters.qemu.host import Host, limits
from sandfleet.adapters.qemu.launch import log_tail
from sandfleet.adapters.qemu.machine import QemuMachine, Sessions
from sandfleet.adapters.qemu.manifest import READY, DiskChain, Manifest, write_manifest
from sandfleet.adapters.qemu.process import ProcessHandle
from sandfleet.adapters.qemu.qmp import Qmp
from sandfleet.adapters.qemu.spawn import Spawned, SpawnRecipe, spawn
from sandfleet.adapters.qemu.standstill import thaw
from sandfleet.adapters.together import both
from sandfleet.model.errors import HypervisorFailed, SnapshotUnusable
from sandfleet.wire.qemu_command import DATA_DRIVE, ROOT_DRIVE
from sandfleet.wire.snapshot_manifest import MEMORY_FILE, SnapshotManifest

STAT_BLOCK_BYTES = 512


@dataclass(frozen=True, slots=True)
class LoadOrder:
    """A verified snapshot, and whose machine it becomes."""

    directory: Path
    snapshot: SnapshotManifest
    owner: str
    epoch: int

    @property
    def memory_digest(self) -> str:
        """Return what its memory is known by."""
        file = self.snapshot.files.get(MEMORY_FILE)
        if file is None:
            raise SnapshotUnusable(f"snapshot {self.snapshot.snapshot_id} has no memory")
        return file.digest

    @property
    def plugged_bytes_max(self) -> int:
        """Return how much of its memory beyond the base can have content at most."""
        plugged = self.snapshot.memory_mib - self.snapshot.shape.memory_base_mib << 20
        saved = (self.directory / MEMORY_FILE).stat().st_blocks * STAT_BLOCK_BYTES
        return min(plugged, saved)


async def load(
    host: Host, order: LoadOrder, backings: Backings, *, memory: ForkMemory | None = None
) -> QemuMachine:
    """Return a running machine with its agent answering; a failure leaves nothing behind."""
    snapshot = order.snapshot
    async with AsyncExitStack() as undo:
        seated = await take_seat(host, undo, order, backings)
        manifest = seated.manifest
        await host.faults.at("load.linked")
        recipe, memory_format = seated.recipe(order), snapshot.memory_format
        if memory is not None:
            recipe = replace(recipe, memory=memory.pages, state=memory.devices)
            memory_format = migration.APART
        spawned = await spawn(host, manifest, recipe)
        undo.push_async_callback(end_process, spawned.process)
        await host.faults.at("load.spawned")
        manifest = spawned_for(manifest, spawned.process, snapshot, owner=order.owner, epoch=order.epoch)
        root, data = seated.root.chain(ROOT_DRIVE), seated.data.chain(DATA_DRIVE)
        manifest = msgspec.structs.replace(manifest, root=root, data=data)
        connecting = connect(host, manifest, spawned, enabled=snapshot.network_enabled)
        machine = await both(_open_sessions(host, undo, manifest, spawned, memory_format), connecting)
        await host.faults.at("load.answered")
        machine.manifest = msgspec.structs.replace(machine.manifest, state=READY)
        await asyncio.to_thread(
            write_manifest, host.directory(manifest.machine_id), machine.manifest, durable=True
        )
        await host.faults.at("load.ready")
        undo.pop_all()
        host.busy.discard(manifest.machine_id)
        return machine


@dataclass(frozen=True, slots=True)
class Disk:
    """The files of one disk, newest first; the first is new and empty."""

    layers: list[Path]
    backings: list[Path]

    def chain(self, drive: str) -> DiskChain:
        """Return the disk as the machine's manifest has it."""
        return first_chain(drive, [path.name for path in self.layers], backings=self.backings)


@dataclass(frozen=True, slots=True)
class Seated:
    """A machine whose directory and disks are there, and whose QEMU is still to be started."""

    manifest: Manifest
    root: Disk
    data: Disk

    def recipe(self, order: LoadOrder) -> SpawnRecipe:
        """Return how its QEMU is started to load all of the snapshot's memory."""
        snapshot = order.snapshot
        return SpawnRecipe(
            shape=self.manifest.shape,
            memory=None,
            state=order.directory / MEMORY_FILE,
            root=[*self.root.layers, *self.root.backings],
            data=[*self.data.layers, *self.data.backings],
            limits=limits(
                memory_mib=snapshot.memory_mib,
                cpu_count=snapshot.cpu_count,
                cpu_percent=snapshot.cpu_percent,
            ),
        )


async def take_seat(host: Host, undo: AsyncExitStack, order: LoadOrder, backings: Backings) -> Seated:
    """Make the directory and the disks of a new machine; `undo` removes all of the machine."""
    snapshot = order.snapshot
    shape = machine_shape(snapshot.shape)
    manifest = seat(
        host, undo, machine_order(snapshot), template_version=snapshot.template_version, shape=shape
    )
    directory = host.directory(manifest.machine_id)
    root = await _disk(order, directory, drive=ROOT_DRIVE, backings=backings)
    data = await _disk(order, directory, drive=DATA_DRIVE, backings=backings)
    return Seated(manifest, root, data)


async def _disk(order: LoadOrder, directory: Path, *, drive: str, backings: Backings) -> Disk:
    """Link the snapshot's layers into the machine's directory and put an empty one on them."""
    snapshot = order.snapshot
    chain = snapshot.root if drive == ROOT_DRIVE else snapshot.data
    own = [name for name in chain if name in snapshot.files]
    shared = [snapshot.backings[name] for name in chain if name not in snapshot.files]
    await asyncio.to_thread(snapshot_files.link_layers, order.directory, own, directory)
    below = [await asyncio.to_thread(backings.require, digest) for digest in shared]
    layers = [directory / name for name in (new_layer_name(drive), *own)]
    write_empty_overlay(layers[0], backing=layers[1], size_bytes=virtual_size(layers[1]))
    return Disk(layers=layers, backings=below)


async def _open_sessions(
    host: Host, undo: AsyncExitStack, manifest: Manifest, spawned: Spawned, memory_format: str
) -> QemuMachine:
    handle = ProcessHandle(spawned.process)
    undo.callback(handle.close)
    directory = host.directory(manifest.machine_id)
    try:
        qmp = await Qmp.connect(directory / QMP_SOCKET)
        undo.push_async_callback(qmp.close)
        await migration.load_from(qmp, spawned.state_path, memory_format=memory_format)
        await thaw(qmp)
        # Else it holds what it was loaded from, and its place, for as long as it runs.
        await qmp.take_back(spawned.state_path)
    except HypervisorFailed as error:
        raise HypervisorFailed(f"{error.message} {log_tail(directory)}".strip()) from error
    guest = await host.guests(directory / AGENT_SOCKET)
    undo.push_async_callback(guest.close)
    return QemuMachine(host, manifest, Sessions(handle, qmp, guest))
