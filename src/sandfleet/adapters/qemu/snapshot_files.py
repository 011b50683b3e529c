"""Snapshots on this host's disk: `<data dir>/snapshots/<id>/`, complete from the moment the name exists.

Rule 1: a snapshot is made under another name and renamed when all of it, synced, is there.
What has no final name is nobody's and is removed when the engine starts.
Rule 2: its disk layers are links to files that no guest writes to any more, so it costs no
copy, and removing it takes nothing from machines that run on the same layers.
Rule 3: its bytes are compared with the manifest's digests, once per boot of the host and file.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from sandfleet.adapters.qemu.manifest import sync_directory, write_atomically
from sandfleet.adapters.qemu.process import BOOT_ID
from sandfleet.adapters.sparse_files import allocated_bytes, digest_of, fingerprint
from sandfleet.model.errors import BadRequest, HypervisorFailed, SnapshotUnusable
from sandfleet.wire.snapshot_manifest import FORMAT, SnapshotManifest

MANIFEST_FILE = "manifest.json"
ENDED_FILE = "ended-machine"
"""Names the machine that this snapshot is the end of: it must never run again."""
VERIFIED_FILE = ".verified"
PARTIAL_PREFIX = ".partial-"
MANIFEST_BYTES_MAX = 64 << 20
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def snapshots_dir(data_dir: Path) -> Path:
    """Return where this host's snapshots are."""
    return data_dir / "snapshots"


def snapshot_dir(data_dir: Path, snapshot_id: str) -> Path:
    """Return where one snapshot is, or would be."""
    if not _ID.fullmatch(snapshot_id):
        raise BadRequest("not a snapshot id")
    return snapshots_dir(data_dir) / snapshot_id


@contextmanager
def staging(data_dir: Path) -> Iterator[Path]:
    """Hold a directory in which a snapshot is put together; what was not published is removed."""
    directory = snapshots_dir(data_dir) / f"{PARTIAL_PREFIX}{secrets.token_hex(8)}"
    try:
        directory.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise HypervisorFailed(f"{directory} cannot be made: {error.strerror}") from error
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def remove_partial(data_dir: Path) -> list[str]:
    """Remove what a dead process was putting together; called before anything is begun here."""
    left = sorted(snapshots_dir(data_dir).glob(f"{PARTIAL_PREFIX}*"))
    for directory in left:
        shutil.rmtree(directory, ignore_errors=True)
    return [directory.name for directory in left]


def link_layers(source: Path, names: Sequence[str], directory: Path) -> None:
    """Give the snapshot in `directory` its own names of a machine's layers, or the other way round."""
    for name in names:
        os.link(source / name, directory / name)


def sync_file(path: Path) -> None:
    """Return when the file is on the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def publish(directory: Path, manifest: SnapshotManifest, final: Path, *, ended_machine: str | None) -> None:
    """Give the snapshot, all of whose files are synced, its name: the one step by which it comes to be."""
    if ended_machine is not None:
        write_atomically(directory / ENDED_FILE, ended_machine.encode(), durable=True)
    _note_verified(directory, manifest, durable=False)
    write_atomically(directory / MANIFEST_FILE, msgspec.json.encode(manifest), durable=True)
    directory.rename(final)
    sync_directory(final.parent)


def read(directory: Path) -> SnapshotManifest:
    """Return the manifest of a snapshot; `SnapshotUnusable` says what is wrong with it."""
    path = directory / MANIFEST_FILE
    try:
        if path.stat().st_size > MANIFEST_BYTES_MAX:
            raise SnapshotUnusable(f"snapshot {directory.name} has no usable manifest: it is too large")
        manifest = msgspec.json.decode(path.read_bytes(), type=SnapshotManifest)
    except (OSError, msgspec.DecodeError) as error:
        raise SnapshotUnusable(f"snapshot {directory.name} has no usable manifest: {error}") from error
    if manifest.format != FORMAT:
        raise SnapshotUnusable(
            f"snapshot {directory.name} has format {manifest.format}, this version reads {FORMAT}"
        )
    return manifest


def verify(directory: Path, manifest: SnapshotManifest) -> None:
    """Compare every file with its digest; `SnapshotUnusable` names the one that is missing or wrong."""
    if _verified_as(directory) == _seen(directory, manifest):
        return
    for name, promised in manifest.files.items():
        try:
            found = digest_of(directory / name)
        except OSError as error:
            raise SnapshotUnusable(f"snapshot {directory.name} cannot be read: {error}") from error
        if found.digest != promised.digest:
            raise SnapshotUnusable(f"snapshot {directory.name} is damaged: {name} has other bytes")
    _note_verified(directory, manifest, durable=False)


def size_bytes(directory: Path, manifest: SnapshotManifest) -> int:
    """Return what the snapshot's files take on this disk."""
    return sum(allocated_bytes(directory / name) for name in manifest.files)


def ended_machine(directory: Path) -> str | None:
    """Return the machine that this snapshot is the end of."""
    try:
        return (directory / ENDED_FILE).read_text()
    except OSError:
        return None


def complete(data_dir: Path) -> list[Path]:
    """Return the directories of all snapshots that have their name."""
    parent = snapshots_dir(data_dir)
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if _ID.fullmatch(path.name))


def _note_verified(directory: Path, manifest: SnapshotManifest, *, durable: bool) -> None:
    seen = _seen(directory, manifest)
    if seen is not None:
        write_atomically(directory / VERIFIED_FILE, seen.encode(), durable=durable)


def _verified_as(directory: Path) -> str:
    try:
        return (directory / VERIFIED_FILE).read_text()
    except OSError:
        return ""


def _seen(directory: Path, manifest: SnapshotManifest) -> str | None:
    """Return how the files look from outside, and what they were promised to be; None if one is missing."""
    try:
        prints = [
            f"{name} {file.digest} {fingerprint(directory / name)}"
            for name, file in sorted(manifest.files.items())
        ]
    except OSError:
        return None
    return "\n".join([BOOT_ID.read_text().strip(), *prints])
