"""What every `ports.blobs.SnapshotStore` keeps, whatever it stands on.

Each check is given a store that is empty, the objects under it, and a directory for files.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from sandfleet.adapters.blobs.objects import Objects
from sandfleet.adapters.sparse_files import allocated_bytes, digest_of
from sandfleet.model.errors import NotFound, SnapshotUnusable
from sandfleet.ports.blobs import SnapshotStore, StoredFiles
from sandfleet.wire.snapshot_manifest import CHUNK_BYTES, SnapshotManifest, SnapshotShape

SPARSE_BYTES = 40 * CHUNK_BYTES + 12_345


@dataclass(frozen=True, slots=True)
class Subject:
    """The store under test, the objects below it, and a directory of the check's own."""

    store: SnapshotStore
    objects: Objects
    directory: Path


Check = Callable[[Subject], Awaitable[None]]


def silent(_done: int, _total: int) -> None:
    """Take no notice of progress."""


def a_snapshot(directory: Path, snapshot_id: str, *, seed: int, shared_seed: int = 0) -> SnapshotManifest:
    """Write the files of a snapshot into `directory` and return its manifest.

    `memory` is sparse, with pieces of `seed`; `root.qcow2` and the backing are those of `shared_seed`.
    """
    own, shared = random.Random(seed), random.Random(shared_seed)
    directory.mkdir(parents=True, exist_ok=True)
    _sparse(directory / "memory", own)
    (directory / "root.qcow2").write_bytes(shared.randbytes(CHUNK_BYTES + 777))
    (directory / "data.qcow2").write_bytes(own.randbytes(1000))
    backing = directory / "backing"
    backing.write_bytes(shared.randbytes(2 * CHUNK_BYTES + 5))
    names = ("memory", "root.qcow2", "data.qcow2")
    return SnapshotManifest(
        snapshot_id=snapshot_id,
        owner="sb-one",
        epoch=1,
        taken_at_s=1.0,
        template="base",
        template_version="1" * 64,
        image_digest="2" * 64,
        memory_mib=512,
        cpu_count=1,
        disk_mib=20480,
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
        files={name: digest_of(directory / name) for name in names},
        root=["root.qcow2", "backing"],
        data=["data.qcow2", "backing"],
        backings={"backing": hashlib.sha256(backing.read_bytes()).hexdigest()},
    )


def files_in(directory: Path, manifest: SnapshotManifest) -> StoredFiles:
    """Return the paths of a snapshot's files in `directory`."""
    return StoredFiles(
        files={name: directory / name for name in manifest.files},
        backings={name: directory / name for name in manifest.backings},
    )


async def what_was_put_comes_back(subject: Subject) -> None:
    """Every byte and every hole of a snapshot is as it was, its backing included."""
    source, target = subject.directory / "source", subject.directory / "target"
    manifest = a_snapshot(source, "s-1", seed=1)
    told: list[tuple[int, int]] = []
    new = await subject.store.put(
        manifest, files_in(source, manifest), progress=lambda done, total: told.append((done, total))
    )
    assert new > 0
    assert told[-1][0] == told[-1][1] > 0
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert await subject.store.manifest("s-1") == manifest
    target.mkdir()
    await subject.store.fetch(manifest, files_in(target, manifest), progress=silent)
    for name in ("memory", "root.qcow2", "data.qcow2", "backing"):
        assert (target / name).read_bytes() == (source / name).read_bytes(), name
    assert allocated_bytes(target / "memory") < SPARSE_BYTES / 4
    assert sorted(path.name for path in target.iterdir()) == sorted(path.name for path in source.iterdir())


async def only_what_changed_is_stored(subject: Subject) -> None:
    """A second snapshot brings the pieces that the first has not; the same one again brings none."""
    first = a_snapshot(subject.directory / "a", "s-1", seed=1)
    files = files_in(subject.directory / "a", first)
    before = await subject.store.put(first, files, progress=silent)
    assert await subject.store.put(first, files, progress=silent) == 0
    second = a_snapshot(subject.directory / "b", "s-2", seed=2)
    after = await subject.store.put(second, files_in(subject.directory / "b", second), progress=silent)
    assert before - after > 3 * CHUNK_BYTES, (before, after)


async def what_is_not_there_is_not_found(subject: Subject) -> None:
    """A snapshot that was never put, or only begun, is not there; forgetting it is no error."""
    try:
        await subject.store.manifest("s-none")
    except NotFound:
        await subject.store.forget("s-none")
    else:
        raise AssertionError("a snapshot out of nothing")


async def a_source_that_changed_is_not_stored(subject: Subject) -> None:
    """Files that are not what the manifest says are refused, and nothing is published."""
    manifest = a_snapshot(subject.directory, "s-1", seed=1)
    (subject.directory / "data.qcow2").write_bytes(b"x" * 1000)
    await _is_unusable(subject.store.put(manifest, files_in(subject.directory, manifest), progress=silent))
    await what_is_not_there_is_not_found(subject)
    try:
        await subject.store.manifest("s-1")
    except NotFound:
        return
    raise AssertionError("a snapshot was published that is not what it says")


async def a_missing_piece_is_noticed(subject: Subject) -> None:
    """Nothing that is incomplete is handed out, and no part of it stays on the host."""
    manifest, target = await _stored(subject)
    await subject.objects.delete((await _chunks(subject))[0])
    await _is_unusable(subject.store.fetch(manifest, files_in(target, manifest), progress=silent))
    assert not [path for path in target.iterdir() if path.name.startswith(".")]


async def wrong_bytes_are_noticed(subject: Subject) -> None:
    """A piece that is another piece, or none at all, is refused."""
    manifest, target = await _stored(subject)
    chunks = await _chunks(subject)
    await subject.objects.put(chunks[0], await subject.objects.get(chunks[1]))
    await _is_unusable(subject.store.fetch(manifest, files_in(target, manifest), progress=silent))
    await subject.objects.put(chunks[0], b"not compressed")
    await _is_unusable(subject.store.fetch(manifest, files_in(target, manifest), progress=silent))


async def a_broken_manifest_is_refused(subject: Subject) -> None:
    """A manifest that cannot be read is not taken for a snapshot."""
    await _stored(subject)
    await subject.objects.put("snapshots/s-1.json", b"{")
    await _is_unusable(subject.store.manifest("s-1"))


async def a_sweep_keeps_what_is_needed(subject: Subject) -> None:
    """Pieces shared with a snapshot that is kept stay; the rest goes; young things are left alone."""
    first = a_snapshot(subject.directory / "a", "s-1", seed=1)
    second = a_snapshot(subject.directory / "b", "s-2", seed=2)
    for name, manifest in (("a", first), ("b", second)):
        await subject.store.put(manifest, files_in(subject.directory / name, manifest), progress=silent)
    before = len(await _chunks(subject))
    assert await subject.store.sweep(keep={"s-2"}, older_than_s=3600) == 0
    assert await subject.store.sweep(keep={"s-1", "s-2"}, older_than_s=-60) == 0
    assert await subject.store.sweep(keep={"s-2"}, older_than_s=-60) > 1
    assert 0 < len(await _chunks(subject)) < before
    target = subject.directory / "target"
    target.mkdir()
    await subject.store.fetch(second, files_in(target, second), progress=silent)
    assert await subject.store.sweep(keep=set(), older_than_s=-60) > 0
    assert [item async for item in subject.objects.list("")] == []


CHECKS: tuple[Check, ...] = (
    what_was_put_comes_back,
    only_what_changed_is_stored,
    what_is_not_there_is_not_found,
    a_source_that_changed_is_not_stored,
    a_missing_piece_is_noticed,
    wrong_bytes_are_noticed,
    a_broken_manifest_is_refused,
    a_sweep_keeps_what_is_needed,
)


async def _stored(subject: Subject) -> tuple[SnapshotManifest, Path]:
    source, target = subject.directory / "source", subject.directory / "target"
    manifest = a_snapshot(source, "s-1", seed=1)
    await subject.store.put(manifest, files_in(source, manifest), progress=silent)
    target.mkdir()
    return manifest, target


async def _chunks(subject: Subject) -> list[str]:
    return sorted([item.name async for item in subject.objects.list("chunks")])


async def _is_unusable(work: Awaitable[object]) -> None:
    try:
        await work
    except SnapshotUnusable:
        return
    raise AssertionError("it was taken for good")


def _sparse(path: Path, own: random.Random) -> None:
    with open(path, "wb") as file:
        file.truncate(SPARSE_BYTES)
        for place in (0, 7, 39):
            file.seek(place * CHUNK_BYTES + 4096)
            file.write(own.randbytes(65536))
        file.seek(SPARSE_BYTES - 1)
        file.write(b"\x01")
