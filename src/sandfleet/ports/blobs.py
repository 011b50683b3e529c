"""The object store that makes snapshots durable (adapter: `adapters/blobs`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sandfleet.wire.snapshot_manifest import SnapshotManifest

Progress = Callable[[int, int], None]
"""Is told how many bytes are done, and of how many."""


@dataclass(frozen=True, slots=True)
class StoredFiles:
    """Where the files of one snapshot stand on a host: its own and those that back them, by name."""

    files: dict[str, Path]
    backings: dict[str, Path]


class SnapshotStore(Protocol):
    """Snapshots in an object store. Only what the store has answered for is ever reported as stored.

    Raises `BlobsUnavailable` (try again), `SnapshotUnusable` (what is stored is incomplete or
    wrong) and `NotFound`.
    """

    async def put(self, manifest: SnapshotManifest, files: StoredFiles, *, progress: Progress) -> int:
        """Store the snapshot, verify what was stored, publish it; return the bytes that were new.

        May be repeated after any interruption: what is there already is not sent again.
        """
        ...

    async def manifest(self, snapshot_id: str) -> SnapshotManifest:
        """Return what is published under this name."""
        ...

    async def fetch(self, manifest: SnapshotManifest, files: StoredFiles, *, progress: Progress) -> None:
        """Write the snapshot's files, and those backings that `files` names, to the given paths, verified."""
        ...

    async def put_backings(self, backings: Mapping[str, Path]) -> int:
        """Store files that disks stand on, by their SHA-256, verified; return the bytes that were new."""
        ...

    async def fetch_backings(self, wanted: Mapping[str, Path]) -> None:
        """Write the files with these digests to the given paths, verified; `SnapshotUnusable`."""
        ...

    async def forget(self, snapshot_id: str) -> None:
        """Unpublish; its pieces go with the next `sweep` if no other snapshot has them. Idempotent."""
        ...

    async def sweep(self, *, keep: Collection[str], older_than_s: float) -> int:
        """Remove snapshots that are not in `keep` and pieces that none needs; return how many objects.

        What is younger than `older_than_s` stays: an upload may be about to need it.
        """
        ...
