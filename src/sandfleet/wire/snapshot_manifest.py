"""What a snapshot says of itself: the machine it was taken of, its files, and what those stand on.

Rule 1: a snapshot is one instant: its memory and its disk layers belong together and to nothing else.
Rule 2: every file is named by a digest of all its bytes. A file is cut into pieces of `CHUNK_BYTES`;
pieces that are all zero do not exist. The digest of a file is that of its size and of the digests of
its pieces with their places, so a sparse file of many GiB is as cheap to name as what it holds.
Rule 3: a disk is a chain, newest layer first: the layers that belong to the snapshot, then the
backings, which other snapshots share. It is loaded on exactly these and never on "the current ones".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

FORMAT = 1
CHUNK_BYTES = 4 * 1024 * 1024
MEMORY_FILE = "memory"


class FileDigest(msgspec.Struct, frozen=True, kw_only=True):
    """One file: its size, the digest of its content, and its pieces that are not all zero, by place."""

    size: int
    digest: str
    chunks: dict[int, str]


class SnapshotShape(msgspec.Struct, frozen=True, kw_only=True):
    """The machine that can load the memory: it must be equal in every field (see `wire.qemu_command`)."""

    qemu_version: str
    machine_type: str
    accelerator: str
    cpu_model: str
    host_cpu: str
    cpu_max: int
    memory_base_mib: int
    memory_max_mib: int
    memory_block_mib: int
    translation_cache_mib: int = 64
    card_announces: bool = True


class SnapshotManifest(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot. `root` and `data` name a disk's chain, newest first: keys of `files`, then of `backings`.

    `backings` gives the SHA-256 of each shared file below the snapshot's own layers.
    """

    snapshot_id: str
    owner: str
    epoch: int
    taken_at_s: float
    template: str
    template_version: str
    image_digest: str
    memory_mib: int
    cpu_count: int
    disk_mib: int
    network_enabled: bool
    shape: SnapshotShape
    files: dict[str, FileDigest]
    root: list[str]
    data: list[str]
    backings: dict[str, str]
    cpu_percent: int | None = None
    memory_format: str = "mapped"
    """`mapped`: each page at its own place, with holes; `stream`: pages in the order of saving."""
    format: int = FORMAT


def file_digest(size: int, chunks: Mapping[int, str]) -> str:
    """Return the digest of a file with these pieces."""
    lines = [f"sandfleet-file {FORMAT} {CHUNK_BYTES} {size}"]
    lines += [f"{place} {chunks[place]}" for place in sorted(chunks)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def stored_bytes(manifest: SnapshotManifest) -> int:
    """Return how many bytes the snapshot's pieces have, before compression and sharing."""
    return sum(len(file.chunks) for file in manifest.files.values()) * CHUNK_BYTES
