"""Snapshots of a fake host's VMs, for `testing.fake_worker_client`."""

from __future__ import annotations

from sandfleet.wire.snapshot_manifest import FileDigest, SnapshotManifest, SnapshotShape, file_digest
from sandfleet.wire.worker_messages import SavedVm, VmStatus

SIZE_BYTES = 64 << 20


def a_saved_vm(snapshot_id: str, vm: VmStatus) -> SavedVm:
    """Return what a worker answers when it has saved `vm`."""
    return SavedVm(
        snapshot_id=snapshot_id, size_bytes=SIZE_BYTES, manifest=a_manifest(snapshot_id, vm), pause_ms=12
    )


def a_manifest(snapshot_id: str, vm: VmStatus) -> SnapshotManifest:
    """Return a manifest that is well formed, of files that do not exist."""
    chunks = {0: "0" * 64}
    file = FileDigest(size=SIZE_BYTES, digest=file_digest(SIZE_BYTES, chunks), chunks=chunks)
    return SnapshotManifest(
        snapshot_id=snapshot_id,
        owner=vm.sandbox_id,
        epoch=vm.epoch,
        taken_at_s=0,
        template=vm.template,
        template_version=vm.template_version,
        image_digest="1" * 64,
        memory_mib=vm.memory_mib,
        cpu_count=vm.cpu_count,
        disk_mib=vm.disk_mib,
        network_enabled=True,
        shape=SnapshotShape(
            qemu_version="10.0.2",
            machine_type="pc-q35-10.0",
            accelerator="tcg",
            cpu_model="Nehalem",
            host_cpu="a test",
            cpu_max=4,
            memory_base_mib=512,
            memory_max_mib=4096,
            memory_block_mib=128,
        ),
        files={"memory": file, "root-0": file, "data-0": file},
        root=["root-0", "base-root"],
        data=["data-0", "base-data"],
        backings={"base-root": "2" * 64, "base-data": "3" * 64},
    )
