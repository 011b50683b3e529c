"""Snapshots on one host: what a machine is saved to and loaded from (adapter: `adapters/qemu`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sandfleet.ports.blobs import StoredFiles
from sandfleet.ports.hypervisor import Machine
from sandfleet.wire.snapshot_manifest import SnapshotManifest


@dataclass(frozen=True, slots=True)
class SavedSnapshot:
    """A complete snapshot in `directory` of this host. `pause_s` is how long the guest stood still.

    `steps_ms` says how long after it was stopped each step of the save had been done.
    """

    manifest: SnapshotManifest
    directory: Path
    size_bytes: int
    pause_s: float
    steps_ms: Mapping[str, float] = field(default_factory=dict)


Fetch = Callable[[StoredFiles], Awaitable[None]]
"""Writes the named files to the given paths, verified, or raises."""


class SnapshotSaver(Protocol):
    """The part of a host's engine that saves and loads. Every snapshot it shows is complete."""

    async def save(self, machine: Machine, snapshot_id: str) -> SavedSnapshot:
        """Save the machine and end its QEMU: the snapshot is the sandbox from then on.

        Raises `GuestUnresponsive`, `GuestDiskFull` or `HypervisorFailed`; the guest then runs on,
        thawed, and nothing of the snapshot is left. The machine itself is destroyed by the caller.
        """
        ...

    async def capture(self, machine: Machine, snapshot_id: str) -> SavedSnapshot:
        """Save the machine while its guest runs on; it stands still only for an instant. Raises as `save`."""
        ...

    async def load(self, directory: Path, *, owner: str, epoch: int, is_fork: bool = False) -> Machine:
        """Start a machine from the snapshot in `directory`, assigned to `owner`, its agent answering.

        Several with `is_fork` may share what they were loaded from, as long as they do not change it.

        Raises `SnapshotUnusable` when it is incomplete, damaged or made for another kind of
        machine; nothing is left behind then, and the snapshot stays as it was.
        """
        ...

    def stored_files(self, manifest: SnapshotManifest) -> StoredFiles:
        """Return where the files of a local snapshot are, and those that back it."""
        ...

    async def receive(self, manifest: SnapshotManifest, fetch: Fetch) -> SavedSnapshot:
        """Take a snapshot in from elsewhere: `fetch` writes the files it is asked for, then it is complete.

        Whoever asks for one that is being received waits for it. A failure leaves nothing behind
        but backings that arrived whole.
        """
        ...

    def find(self, snapshot_id: str) -> SavedSnapshot | None:
        """Return the complete snapshot of this name on this host."""
        ...

    async def local_snapshots(self) -> list[SavedSnapshot]:
        """Return all complete snapshots of this host."""
        ...

    async def drop(self, snapshot_id: str) -> bool:
        """Remove the local files; machines that run on its layers go on. Says whether there were any."""
        ...
