"""Pieces of files in the object store: compressed, named by their bytes, verified both ways."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress

import zstandard

from sandfleet.adapters.blobs.objects import Objects
from sandfleet.adapters.sparse_files import read_piece
from sandfleet.model.errors import BlobsUnavailable, NotFound, SnapshotUnusable
from sandfleet.wire.snapshot_manifest import CHUNK_BYTES

COMPRESSION_LEVEL = 1
UPLOAD_TRIES = 3
DOWNLOAD_TRIES = 2


def chunk_name(digest: str) -> str:
    """Return the name of the object that holds the piece with this digest."""
    return f"chunks/{digest[:2]}/{digest}"


def packed(fd: int, place: int, *, size: int, digest: str) -> bytes:
    """Read one piece of a file and return it compressed; what is not the promised piece raises."""
    piece = read_piece(fd, place, size)
    if hashlib.sha256(piece).hexdigest() != digest:
        raise SnapshotUnusable(f"the file has other bytes at {place * CHUNK_BYTES} than were saved")
    return zstandard.compress(piece, COMPRESSION_LEVEL)


def unpacked(content: bytes, *, digest: str) -> bytes:
    """Return the piece in an object, if it is the promised one."""
    try:
        piece = zstandard.decompress(content, max_output_size=CHUNK_BYTES)
    except zstandard.ZstdError as error:
        raise SnapshotUnusable(f"the stored piece {digest[:16]}… cannot be read: {error}") from error
    if hashlib.sha256(piece).hexdigest() != digest:
        raise SnapshotUnusable(f"the stored piece {digest[:16]}… has other bytes than its name says")
    return piece


async def put_verified(objects: Objects, digest: str, content: bytes) -> None:
    """Store a piece and read it back; a store that keeps something else is tried again, then given up."""
    name = chunk_name(digest)
    for _ in range(UPLOAD_TRIES):
        await objects.put(name, content)
        try:
            if await objects.get(name) == content:
                return
        except NotFound:
            continue
    await objects.delete(name)
    raise BlobsUnavailable(f"the object store does not give back what was put into {name}", retry_after_s=30)


async def get_verified(objects: Objects, digest: str) -> bytes:
    """Return a piece. A store that gives something else is asked again: a sandbox ends by it."""
    for _ in range(DOWNLOAD_TRIES - 1):
        with suppress(SnapshotUnusable):
            return await _got(objects, digest)
    return await _got(objects, digest)


async def _got(objects: Objects, digest: str) -> bytes:
    content = await objects.get(chunk_name(digest))
    return await asyncio.to_thread(unpacked, content, digest=digest)
