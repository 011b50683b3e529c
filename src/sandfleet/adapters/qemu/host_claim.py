"""What one worker has of its host for itself: data directory, network range, uids.

Two workers that share any of them would give two machines one address or one user. So
each says in a file of its own what it has, and holds the file's lock while it runs: the
kernel frees it with its holder. Machines outlive their worker, so what was said stays
in force while any of them runs.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Network
from pathlib import Path

import msgspec

from sandfleet.adapters.qemu.manifest import read_manifest
from sandfleet.adapters.qemu.process import is_running
from sandfleet.model.errors import HypervisorFailed

CLAIMS_DIR = Path("/run/sandfleet/workers")
_LOCK_FILE = ".lock"
_LOCK_POLL_S = 0.02
_LOCK_WAIT_S = 10.0


class HostClaim(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker has."""

    data_dir: str
    network_range: str
    uid_first: int
    uid_count: int

    @property
    def file_name(self) -> str:
        """Return the name of its file: one per data directory."""
        return hashlib.sha256(self.data_dir.encode()).hexdigest()[:16] + ".json"

    def conflict_with(self, other: HostClaim) -> str | None:
        """Say what both would have."""
        if IPv4Network(self.network_range).overlaps(IPv4Network(other.network_range)):
            return f"network_range {self.network_range} overlaps {other.network_range}"
        last, other_last = self.uid_first + self.uid_count - 1, other.uid_first + other.uid_count - 1
        if self.uid_first <= other_last and other.uid_first <= last:
            return f"uids {self.uid_first} to {last} overlap {other.uid_first} to {other_last}"
        return None


@contextmanager
def claimed(claim: HostClaim, *, claims_dir: Path = CLAIMS_DIR) -> Iterator[None]:
    """Have what `claim` says until the block ends; `HypervisorFailed` when another has a part of it."""
    claims_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
    with _alone(claims_dir):
        handle = os.open(claims_dir / claim.file_name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _take(handle, claim, claims_dir)
        except BaseException:
            os.close(handle)
            raise
    try:
        yield
    finally:
        os.close(handle)


def claims_in_force(claims_dir: Path = CLAIMS_DIR) -> list[HostClaim]:
    """Return what the workers of this host have, those that left machines running included."""
    found = [_read(path) for path in sorted(claims_dir.glob("*.json"))]
    return [claim for claim in found if claim is not None and _is_in_force(claim, claims_dir)]


def known_data_dirs(claims_dir: Path = CLAIMS_DIR) -> list[Path]:
    """Return the data directories of all workers that have run since the host booted."""
    found = [_read(path) for path in sorted(claims_dir.glob("*.json"))]
    return [Path(claim.data_dir) for claim in found if claim is not None]


def _take(handle: int, claim: HostClaim, claims_dir: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise HypervisorFailed(f"another worker runs in {claim.data_dir}") from None
    for other in claims_in_force(claims_dir):
        conflict = None if other.data_dir == claim.data_dir else claim.conflict_with(other)
        if conflict is not None:
            raise HypervisorFailed(f"{conflict} of the worker in {other.data_dir}")
    content = msgspec.json.encode(claim)
    os.ftruncate(handle, 0)
    os.pwrite(handle, content, 0)


def _read(path: Path) -> HostClaim | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=HostClaim)
    except (OSError, msgspec.DecodeError):
        return None  # removed, or of somebody who died while writing: it had nothing yet


def _is_in_force(claim: HostClaim, claims_dir: Path) -> bool:
    with suppress(FileNotFoundError):
        handle = os.open(claims_dir / claim.file_name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
    return _has_machines(Path(claim.data_dir) / "machines")


def _has_machines(machines_dir: Path) -> bool:
    if not machines_dir.is_dir():
        return False
    for directory in machines_dir.iterdir():
        with suppress(OSError, HypervisorFailed):
            process = read_manifest(directory).process
            if process is not None and is_running(process):
                return True
    return False


@contextmanager
def _alone(claims_dir: Path) -> Iterator[None]:
    """Let one worker at a time look and take."""
    handle = os.open(claims_dir / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        for _ in range(int(_LOCK_WAIT_S / _LOCK_POLL_S)):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_LOCK_POLL_S)
        else:
            raise HypervisorFailed(f"{claims_dir / _LOCK_FILE} has been held for {_LOCK_WAIT_S:g} s")
        yield
    finally:
        os.close(handle)
