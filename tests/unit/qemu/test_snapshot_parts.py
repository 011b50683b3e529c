"""Parts of saving and loading that need no QEMU: the directory's rules, access lists, what fits where."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from sandfleet.adapters.qemu import snapshot_files, write_faults
from sandfleet.adapters.qemu.backings import Backings
from sandfleet.adapters.qemu.chains import virtual_size
from sandfleet.adapters.qemu.describe import require_compatible
from sandfleet.model.errors import BadRequest, HypervisorFailed, SnapshotUnusable
from sandfleet.testing.conformance.blobs import a_snapshot
from sandfleet.wire.qemu_command import MachineDescriptors, MachineShape, all_descriptors, qemu_arguments
from sandfleet.wire.snapshot_manifest import SnapshotManifest

SHAPE = MachineShape("pc-q35-10.0", "tcg", "Nehalem", 4, 512, 4096, 128)
DESCRIPTORS = MachineDescriptors(
    memory_fd=None, memory_shared=False, root_fds=[10, 11], data_fds=[12], tap_fd=13, qmp_fd=14, agent_fd=15
)


@pytest.fixture
def snapshot(tmp_path: Path) -> tuple[Path, SnapshotManifest]:
    """A published snapshot."""
    with snapshot_files.staging(tmp_path) as directory:
        manifest = a_snapshot(directory, "s-1", seed=1)
        final = snapshot_files.snapshot_dir(tmp_path, "s-1")
        snapshot_files.publish(directory, manifest, final, ended_machine="m-1")
    return final, manifest


def test_a_snapshot_appears_whole_and_says_whose_end_it_is(
    tmp_path: Path, snapshot: tuple[Path, SnapshotManifest]
) -> None:
    directory, manifest = snapshot
    assert snapshot_files.read(directory) == manifest
    assert snapshot_files.complete(tmp_path) == [directory]
    assert snapshot_files.ended_machine(directory) == "m-1"
    snapshot_files.verify(directory, manifest)


def test_what_was_not_published_leaves_nothing(tmp_path: Path) -> None:
    with snapshot_files.staging(tmp_path) as directory:
        (directory / "memory").write_text("half")
        assert snapshot_files.complete(tmp_path) == []
    assert list(snapshot_files.snapshots_dir(tmp_path).iterdir()) == []
    (snapshot_files.snapshots_dir(tmp_path) / ".partial-x").mkdir()
    assert snapshot_files.complete(tmp_path) == []
    assert snapshot_files.remove_partial(tmp_path) == [".partial-x"]


@pytest.mark.parametrize("name", ["../x", "", ".partial-x", "a/b", "a" * 65])
def test_a_name_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadRequest):
        snapshot_files.snapshot_dir(tmp_path, name)


@pytest.mark.parametrize("name", ["memory", "root.qcow2", "data.qcow2"])
def test_changed_bytes_are_found_after_they_were_verified_before(
    snapshot: tuple[Path, SnapshotManifest], name: str
) -> None:
    directory, manifest = snapshot
    snapshot_files.verify(directory, manifest)
    with open(directory / name, "r+b") as file:
        file.seek(10)
        file.write(b"other")
    with pytest.raises(SnapshotUnusable, match=name):
        snapshot_files.verify(directory, manifest)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"format": 9}', b""])
def test_a_manifest_that_is_none_is_refused(snapshot: tuple[Path, SnapshotManifest], content: bytes) -> None:
    directory, _manifest = snapshot
    (directory / "manifest.json").write_bytes(content)
    with pytest.raises(SnapshotUnusable):
        snapshot_files.read(directory)


def test_another_format_is_refused(snapshot: tuple[Path, SnapshotManifest]) -> None:
    directory, manifest = snapshot
    other = msgspec.structs.replace(manifest, format=2)
    (directory / "manifest.json").write_bytes(msgspec.json.encode(other))
    with pytest.raises(SnapshotUnusable, match="format 2"):
        snapshot_files.read(directory)


def test_only_a_machine_of_its_kind_loads_a_memory(tmp_path: Path) -> None:
    shape = a_snapshot(tmp_path, "s", seed=1).shape
    here = {"qemu_version": "10.0.2", "accelerator": "tcg", "host_cpu": "a test"}
    require_compatible(shape, **here)
    require_compatible(shape, **{**here, "qemu_version": "10.1.0 (Debian)", "host_cpu": "another"})
    for changed, reason in (
        ({"accelerator": "kvm"}, "tcg"),
        ({"qemu_version": "10.0.1"}, "10.0.1"),
        ({"qemu_version": "9.2.0"}, "9.2.0"),
    ):
        with pytest.raises(SnapshotUnusable, match=reason):
            require_compatible(shape, **{**here, **changed})
    of_host = msgspec.structs.replace(shape, cpu_model="host")
    with pytest.raises(SnapshotUnusable, match="another"):
        require_compatible(of_host, **{**here, "host_cpu": "another"})


def test_memory_without_a_file_is_the_machines_own_and_inherits_no_descriptor() -> None:
    said = qemu_arguments(SHAPE, DESCRIPTORS, name="m", generation_id="g")
    assert "memory-backend-ram,id=ram0,size=512M" in said
    assert not any("mem-path" in word for word in said)
    assert None not in all_descriptors(DESCRIPTORS)
    with_file = qemu_arguments(SHAPE, replace(DESCRIPTORS, memory_fd=16), name="m", generation_id="g")
    assert any("mem-path=/proc/self/fd/16" in word and "share=off" in word for word in with_file)


def test_an_access_list_is_sorted_masked_and_read_back() -> None:
    entries = [(0x20, 0, 0xFFFFFFFF), (0x01, 6, 0xFFFFFFFF), (0x08, 6, 7), (0x04, 0, 0xFFFFFFFF)]
    encoded = write_faults.encoded(entries)
    assert struct.unpack_from("<I", encoded)[0] == 2
    kinds = [entry[0] for entry in write_faults.decoded(encoded)]
    assert kinds == [0x01, 0x04, 0x08, 0x10, 0x20]
    assert (0x08, 6, 7) in write_faults.decoded(encoded)
    assert write_faults.encoded(write_faults.decoded(encoded)) == encoded


def test_a_device_that_is_not_there_is_said() -> None:
    said = write_faults.allow_background_saves(Path("/dev/there-is-none"))
    assert said is not None
    assert "there-is-none" in said


def test_the_size_of_a_disk_is_in_its_header(tmp_path: Path) -> None:
    disk = tmp_path / "d.qcow2"
    disk.write_bytes(b"QFI\xfb" + bytes(20) + (20 << 30).to_bytes(8, "big"))
    assert virtual_size(disk) == 20 << 30
    disk.write_bytes(b"not")
    with pytest.raises(HypervisorFailed, match="qcow2"):
        virtual_size(disk)


def test_backings_are_found_by_their_bytes_and_never_by_name(tmp_path: Path) -> None:
    backings = Backings(tmp_path / "bases", tmp_path / "templates")
    base = backings.place("0" * 64)
    base.write_bytes(b"something else than its name says")
    assert backings.find("0" * 64) is None
    assert backings.require(backings.digest(base)) == base
    with pytest.raises(SnapshotUnusable, match="0000"):
        backings.require("0" * 64)
    known = backings.digest(base)
    base.write_bytes(b"changed, and of another length")
    again = Backings(tmp_path / "bases", tmp_path / "templates")
    assert known not in (again.digest(base), backings.digest(base))
