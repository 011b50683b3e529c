"""Starting a machine from a snapshot: the memory and disks of one instant, or nothing at all.

Its memory is its own; its disks are new overlays on the snapshot's layers, which the
machine links to, so that it does not depend on how long the snapshot is kept.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sandfleet.adapters.qemu import disks, migration, snapshot_files
from sandfleet.adapters.qemu.backings import Backings
from sandfleet.adapters.qemu.chains import first_chain, new_layer_name, virtual_size
from sandfleet.adapters.qemu.clone import seat
from sandfleet.adapters.qemu.config import AGENT_SOCKET, QMP_SOCKET
from sandfleet.adapters.qemu.describe import machine_shape
from sandfleet.adapters.qemu.erase import end_process
from sandfleet.adapters.qemu.host import Host, limits
from sandfleet.adapters.qemu.launch import log_tail
from sandfleet.adapters.qemu.machine import QemuMachine, Sessions
from sandfleet.adapters.qemu.manifest import READY, Manifest, write_manifest
from sandfleet.adapters.qemu.process import ProcessHandle
from sandfleet.adapters.qemu.qmp import Qmp
from sandfleet.adapters.qemu.spawn import Spawned, SpawnRecipe, spawn
from sandfleet.adapters.qemu.standstill import thaw
from sandfleet.adapters.together import both
from sandfleet.model.errors import HypervisorFailed
from sandfleet.ports.hypervisor import MachineOrder
from sandfleet.ports.network import NetworkSeat
from sandfleet.wire.qemu_command import DATA_DRIVE, ROOT_DRIVE
from sandfleet.wire.snapshot_manifest import MEMORY_FILE, SnapshotManifest


@dataclass(frozen=True, slots=True)
class LoadOrder:
    """A verified snapshot, and whose machine it becomes."""

    directory: Path
    snapshot: SnapshotManifest
    owner: str
    epoch: int


async def load(host: Host, order: LoadOrder, backings: Backings) -> QemuMachine:
    """Return a running machine with its agent answering; a failure leaves nothing behind."""
    snapshot = order.snapshot
    async with AsyncExitStack() as undo:
        shape = machine_shape(snapshot.shape)
        manifest = seat(
            host, undo, _machine_order(snapshot), template_version=snapshot.template_version, shape=shape
        )
        directory = host.directory(manifest.machine_id)
        root = await _disk(order, directory, drive=ROOT_DRIVE, backings=backings)
        data = await _disk(order, directory, drive=DATA_DRIVE, backings=backings)
        await both(_make_overlay(host, root), _make_overlay(host, data))
        await host.faults.at("load.linked")
        spawned = await spawn(host, manifest, _recipe(order, root, data))
        undo.push_async_callback(end_process, spawned.process)
        await host.faults.at("load.spawned")
        manifest = msgspec.structs.replace(
            manifest,
            process=spawned.process,
            owner=order.owner,
            epoch=order.epoch,
            cpu_percent=snapshot.cpu_percent,
            image_digest=snapshot.image_digest,
            qemu_version=snapshot.shape.qemu_version,
            host_cpu=snapshot.shape.host_cpu,
            root=first_chain(ROOT_DRIVE, [path.name for path in root.layers], backings=root.backings),
            data=first_chain(DATA_DRIVE, [path.name for path in data.layers], backings=data.backings),
        )
        connecting = host.network.connect(
            NetworkSeat(manifest.machine_id, manifest.slot), enabled=snapshot.network_enabled
        )
        machine = await both(
            _open_sessions(host, undo, manifest, spawned, snapshot.memory_format), connecting
        )
        await host.faults.at("load.answered")
        machine.manifest = msgspec.structs.replace(machine.manifest, state=READY)
        await asyncio.to_thread(write_manifest, directory, machine.manifest, durable=True)
        await host.faults.at("load.ready")
        undo.pop_all()
        host.busy.discard(manifest.machine_id)
        return machine


@dataclass(frozen=True, slots=True)
class _Disk:
    """The files of one disk, newest first; the first is still to be made."""

    layers: list[Path]
    backings: list[Path]


def _recipe(order: LoadOrder, root: _Disk, data: _Disk) -> SpawnRecipe:
    snapshot = order.snapshot
    return SpawnRecipe(
        shape=machine_shape(snapshot.shape),
        memory=None,
        state=order.directory / MEMORY_FILE,
        root=[*root.layers, *root.backings],
        data=[*data.layers, *data.backings],
        limits=limits(
            memory_mib=snapshot.memory_mib,
            cpu_count=snapshot.cpu_count,
            cpu_percent=snapshot.cpu_percent,
        ),
    )


async def _disk(order: LoadOrder, directory: Path, *, drive: str, backings: Backings) -> _Disk:
    """Link the snapshot's layers into the machine's directory, where an empty one is to stand on them."""
    snapshot = order.snapshot
    chain = snapshot.root if drive == ROOT_DRIVE else snapshot.data
    own = [name for name in chain if name in snapshot.files]
    shared = [snapshot.backings[name] for name in chain if name not in snapshot.files]
    await asyncio.to_thread(snapshot_files.link_layers, order.directory, own, directory)
    below = [await asyncio.to_thread(backings.require, digest) for digest in shared]
    layers = [new_layer_name(drive), *own]
    return _Disk(layers=[directory / name for name in layers], backings=below)


async def _make_overlay(host: Host, disk: _Disk) -> None:
    overlay, newest = disk.layers[:2]
    await disks.create_overlay(
        host.config.image_tool, overlay, backing=newest, size_bytes=virtual_size(newest)
    )
    overlay.chmod(0o600)


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
    except HypervisorFailed as error:
        raise HypervisorFailed(f"{error.message} {log_tail(directory)}".strip()) from error
    guest = await host.guests(directory / AGENT_SOCKET)
    undo.push_async_callback(guest.close)
    return QemuMachine(host, manifest, Sessions(handle, qmp, guest))


def _machine_order(snapshot: SnapshotManifest) -> MachineOrder:
    return MachineOrder(
        template=snapshot.template,
        memory_mib=snapshot.memory_mib,
        cpu_count=snapshot.cpu_count,
        disk_mib=snapshot.disk_mib,
        network_enabled=snapshot.network_enabled,
    )
