"""Files by their pieces: what a sparse file holds, the digest of it, and whether it still has that.

Only what is there is read: holes are skipped by the file system's own account of them.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sandfleet.wire.snapshot_manifest import CHUNK_BYTES, FileDigest, file_digest

HASHERS = 2
_ZERO = bytes(CHUNK_BYTES)


def places(fd: int, size: int) -> Iterator[int]:
    """Yield the place of each piece in which the file system has anything, in order."""
    offset, last = 0, -1
    while offset < size:
        try:
            offset = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        end = min(os.lseek(fd, offset, os.SEEK_HOLE), size)
        for place in range(max(offset // CHUNK_BYTES, last + 1), -(-end // CHUNK_BYTES)):
            yield place
            last = place
        offset = end


def read_piece(fd: int, place: int, size: int) -> bytes:
    """Return one piece; the last of a file may be short, and a file that has shrunk raises."""
    wanted = min(CHUNK_BYTES, size - place * CHUNK_BYTES)
    piece = os.pread(fd, wanted, place * CHUNK_BYTES)
    while len(piece) < wanted:
        more = os.pread(fd, wanted - len(piece), place * CHUNK_BYTES + len(piece))
        if not more:
            raise OSError(errno.EIO, "the file became shorter while it was read")
        piece += more
    return piece


def is_zero(piece: bytes) -> bool:
    """Whether a piece holds nothing."""
    return piece == _ZERO if len(piece) == CHUNK_BYTES else piece == _ZERO[: len(piece)]


def digest_of(path: Path) -> FileDigest:
    """Return what `path` holds, read in full."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        with ThreadPoolExecutor(HASHERS) as hashers:
            found = list(hashers.map(lambda place: (place, _hash(fd, place, size)), places(fd, size)))
    finally:
        os.close(fd)
    chunks = {place: digest for place, digest in found if digest is not None}
    return FileDigest(size=size, digest=file_digest(size, chunks), chunks=chunks)


def _hash(fd: int, place: int, size: int) -> str | None:
    piece = read_piece(fd, place, size)
    return None if is_zero(piece) else hashlib.sha256(piece).hexdigest()


def fingerprint(path: Path) -> str:
    """Return what changes when the file is replaced or written to. Links to it may come and go."""
    stat = path.stat()
    return f"{stat.st_dev} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"


def allocated_bytes(path: Path) -> int:
    """Return what the file takes on disk."""
    return path.stat().st_blocks * 512
