"""Uploads of this host's snapshots: what runs, what was achieved, and what a restart must take up again.

A file beside the snapshot says that its upload was asked for, another that it is durable: so
neither is forgotten with the process, and both go with the local copy.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from sandfleet.ports.snapshots import SavedSnapshot
from sandfleet.wire.worker_messages import SnapshotState
from sandfleet.worker.background import OwnedTask

WANTED_FILE = ".upload-wanted"
DURABLE_FILE = ".durable"
UPLOADS_AT_ONCE = 2


@dataclass(slots=True)
class Upload:
    """One upload of this process."""

    task: OwnedTask[None] | None = None
    done: int = 0
    total: int = 0
    failure: str | None = None

    def progress(self, done: int, total: int) -> None:
        """Take over how far it is."""
        self.done, self.total = done, total


@dataclass(slots=True)
class Uploads:
    """All uploads of this process, by snapshot."""

    by_id: dict[str, Upload] = field(default_factory=dict)
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(UPLOADS_AT_ONCE))

    def state(self, saved: SavedSnapshot) -> SnapshotState:
        """Return how a local snapshot stands."""
        snapshot_id = saved.manifest.snapshot_id
        upload = self.by_id.get(snapshot_id, Upload())
        word = "local"
        if is_durable(saved.directory):
            word = "durable"
        elif upload.task is not None and not upload.task.done:
            word = "uploading"
        elif upload.failure is not None:
            word = "failed"
        return SnapshotState(
            snapshot_id=snapshot_id,
            state=word,
            bytes_done=upload.done,
            bytes_total=upload.total,
            size_bytes=saved.size_bytes,
            reason=upload.failure if word == "failed" else None,
        )


def is_durable(directory: Path) -> bool:
    """Whether the object store has answered for the snapshot in `directory`."""
    return (directory / DURABLE_FILE).exists()


def is_wanted(directory: Path) -> bool:
    """Whether the upload was asked for and has not been achieved."""
    return (directory / WANTED_FILE).exists() and not is_durable(directory)


def mark(directory: Path, name: str) -> None:
    """Leave a mark beside a snapshot; one that has been dropped meanwhile needs none."""
    if directory.is_dir():
        (directory / name).touch(mode=0o600)
