"""What a machine says of itself before it moves, and what the place it moves to answers.

Rule 1: the disks that travel are the sandbox's own layers; what they stand on is named by the digest of
its bytes and must be there already, or be fetched.
Rule 2: the place is made for exactly this shape, whatever templates that host has.
"""

from __future__ import annotations

import msgspec

from sandfleet.wire.snapshot_manifest import SnapshotShape

FORMAT = 1


class MovedDisk(msgspec.Struct, frozen=True, kw_only=True):
    """One disk: its size as the guest sees it, and the SHA-256 of each file below, newest first."""

    size_bytes: int
    backings: list[str]


class MoveManifest(msgspec.Struct, frozen=True, kw_only=True):
    """One machine that may move."""

    owner: str
    epoch: int
    template: str
    template_version: str
    image_digest: str
    memory_mib: int
    cpu_count: int
    disk_mib: int
    network_enabled: bool
    shape: SnapshotShape
    root: MovedDisk
    data: MovedDisk
    cpu_percent: int | None = None
    channels_max: int = 0
    """By how many connections its memory could be sent; 0 by one alone."""
    format: int = FORMAT


class Landing(msgspec.Struct, frozen=True, kw_only=True):
    """Where a machine is expected: its memory and its disks, by a key that is of this move only."""

    host: str
    memory_port: int
    disk_port: int
    key: str
    may_post_copy: bool
    channels: int = 0
    """By how many connections the memory comes; with 0 by one, which belongs to whoever sends."""

    def __repr__(self) -> str:
        return f"Landing(host={self.host!r}, memory_port={self.memory_port}, disk_port={self.disk_port})"
