"""A machine and a snapshot as these tests have them: what a test is about it says, the rest is usual."""

from __future__ import annotations

from typing import Any

from sandfleet.adapters.qemu.manifest import Manifest
from sandfleet.wire.qemu_command import MachineShape
from sandfleet.wire.snapshot_manifest import SnapshotManifest, SnapshotShape

SHAPE = MachineShape("pc-q35-10.0", "tcg", "Nehalem", 4, 512, 4608, 128)


def a_manifest(machine_id: str = "m-1", **changes: Any) -> Manifest:
    """Return the manifest of a machine."""
    usual: dict[str, Any] = {
        "slot": 0,
        "uid": 1,
        "template": "base",
        "template_version": "v",
        "memory_mib": 512,
        "cpu_count": 1,
        "disk_mib": 20480,
        "network_enabled": True,
        "shape": SHAPE,
    }
    return Manifest(machine_id=machine_id, **{**usual, **changes})


def a_snapshot_manifest(snapshot_id: str = "s-1", **changes: Any) -> SnapshotManifest:
    """Return the manifest of a snapshot without files."""
    usual: dict[str, Any] = {
        "owner": "sb-1",
        "epoch": 1,
        "taken_at_s": 0,
        "template": "base",
        "template_version": "v",
        "image_digest": "i",
        "memory_mib": 512,
        "cpu_count": 1,
        "disk_mib": 20480,
        "network_enabled": True,
        "shape": SnapshotShape(
            machine_type=SHAPE.machine_type,
            qemu_version="10",
            accelerator=SHAPE.accelerator,
            cpu_model=SHAPE.cpu_model,
            host_cpu="any",
            cpu_max=SHAPE.cpu_max,
            memory_base_mib=SHAPE.memory_base_mib,
            memory_max_mib=SHAPE.memory_max_mib,
            memory_block_mib=SHAPE.memory_block_mib,
        ),
        "files": {},
        "root": [],
        "data": [],
        "backings": {},
    }
    return SnapshotManifest(snapshot_id=snapshot_id, **{**usual, **changes})
