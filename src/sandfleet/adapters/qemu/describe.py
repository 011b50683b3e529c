"""From a machine and the files of its snapshot to the manifest, and from a manifest to a machine's shape."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from sandfleet.adapters.qemu.backings import Backings
from sandfleet.adapters.qemu.chains import chain_of
from sandfleet.adapters.qemu.manifest import DiskChain, Manifest, ProcessIdentity
from sandfleet.adapters.sparse_files import digest_of
from sandfleet.model.errors import SnapshotUnusable
from sandfleet.ports.hypervisor import MachineOrder
from sandfleet.wire.move_manifest import MoveManifest
from sandfleet.wire.qemu_command import DATA_DRIVE, ROOT_DRIVE, MachineShape
from sandfleet.wire.snapshot_manifest import MEMORY_FILE, SnapshotManifest, SnapshotShape

Brought = SnapshotManifest | MoveManifest
"""What comes into a new machine from elsewhere: what was saved, or what another host sends."""
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


def describe(
    directory: Path,
    machine: Manifest,
    backings: Backings,
    *,
    snapshot_id: str,
    memory_format: str,
    taken_at_s: float,
) -> SnapshotManifest:
    """Return the manifest of the snapshot whose files are in `directory`: all of them are read."""
    root, data = chain_of(machine, ROOT_DRIVE), chain_of(machine, DATA_DRIVE)
    layers = layers_of(directory, root) + layers_of(directory, data)
    shared = {path: backings.digest(Path(path)) for path in (*root.backings, *data.backings)}
    names = {path: f"backing-{digest[:24]}" for path, digest in shared.items()}
    return SnapshotManifest(
        snapshot_id=snapshot_id,
        owner=machine.owner or "",
        epoch=machine.epoch,
        taken_at_s=taken_at_s,
        template=machine.template,
        template_version=machine.template_version,
        image_digest=machine.image_digest,
        memory_mib=machine.memory_mib,
        cpu_count=machine.cpu_count,
        disk_mib=machine.disk_mib,
        network_enabled=machine.network_enabled,
        shape=snapshot_shape(machine),
        files={name: digest_of(directory / name) for name in (MEMORY_FILE, *layers)},
        root=[*layers_of(directory, root), *(names[path] for path in root.backings)],
        data=[*layers_of(directory, data), *(names[path] for path in data.backings)],
        backings={names[path]: digest for path, digest in shared.items()},
        cpu_percent=machine.cpu_percent,
        memory_format=memory_format,
    )


def layers_of(directory: Path, chain: DiskChain) -> list[str]:
    """Return those layers of a chain that the snapshot in `directory` holds."""
    return [name for name in chain.layers if (directory / name).exists()]


def snapshot_shape(machine: Manifest) -> SnapshotShape:
    """Return what can load the machine's memory."""
    shape = machine.shape
    return SnapshotShape(
        qemu_version=machine.qemu_version,
        machine_type=shape.machine_type,
        accelerator=shape.accelerator,
        cpu_model=shape.cpu_model,
        host_cpu=machine.host_cpu,
        cpu_max=shape.cpu_max,
        memory_base_mib=shape.memory_base_mib,
        memory_max_mib=shape.memory_max_mib,
        memory_block_mib=shape.memory_block_mib,
        translation_cache_mib=shape.translation_cache_mib,
        card_announces=shape.card_announces,
    )


def machine_shape(shape: SnapshotShape) -> MachineShape:
    """Return the shape of a machine that loads the snapshot."""
    return MachineShape(
        machine_type=shape.machine_type,
        accelerator=shape.accelerator,
        cpu_model=shape.cpu_model,
        cpu_max=shape.cpu_max,
        memory_base_mib=shape.memory_base_mib,
        memory_max_mib=shape.memory_max_mib,
        memory_block_mib=shape.memory_block_mib,
        translation_cache_mib=shape.translation_cache_mib,
        card_announces=shape.card_announces,
    )


def machine_order(brought: Brought) -> MachineOrder:
    """Return the machine that it wants."""
    return MachineOrder(
        template=brought.template,
        memory_mib=brought.memory_mib,
        cpu_count=brought.cpu_count,
        disk_mib=brought.disk_mib,
        network_enabled=brought.network_enabled,
    )


def spawned_for(
    manifest: Manifest, process: ProcessIdentity, brought: Brought, *, owner: str, epoch: int
) -> Manifest:
    """Return the manifest of a machine whose QEMU has been started for what is brought into it."""
    return msgspec.structs.replace(
        manifest,
        process=process,
        owner=owner,
        epoch=epoch,
        cpu_percent=brought.cpu_percent,
        image_digest=brought.image_digest,
        qemu_version=brought.shape.qemu_version,
        host_cpu=brought.shape.host_cpu,
    )


def require_compatible(shape: SnapshotShape, *, qemu_version: str, accelerator: str, host_cpu: str) -> None:
    """Raise `SnapshotUnusable` if this host cannot load such a memory, and say why."""
    if shape.accelerator != accelerator:
        raise SnapshotUnusable(
            f"it was taken under {shape.accelerator}, this host runs guests by {accelerator}"
        )
    if _numbers(shape.qemu_version) > _numbers(qemu_version):
        raise SnapshotUnusable(f"it was taken by QEMU {shape.qemu_version}, this host has {qemu_version}")
    if shape.cpu_model == "host" and shape.host_cpu != host_cpu:
        raise SnapshotUnusable(f"it was taken on a {shape.host_cpu}, this host is a {host_cpu}")


def _numbers(version: str) -> tuple[int, ...]:
    found = _VERSION.match(version)
    if found is None:
        raise SnapshotUnusable(f"{version!r} is no version of QEMU")
    return tuple(int(number or 0) for number in found.groups())
