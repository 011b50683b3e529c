"""The `SnapshotStore` port on an object store.

Rule 1: pieces first, the manifest last: whoever finds a manifest finds all it names.
Rule 2: what is being stored announces itself (`uploads/`) before it looks what is there
already, so that a sweep does not take a piece away which it then relies on.
Rule 3: that a piece is there does not say that it is whole: an upload may have died on it. It is
relied on when this process has read it, once.
Rule 4: a file appears on this host when all of it has been compared with its digest.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from sandfleet.adapters.blobs import sweep as sweeping
from sandfleet.adapters.blobs.objects import Objects
from sandfleet.adapters.blobs.pieces import chunk_name, get_verified, packed, put_verified, unpacked
from sandfleet.adapters.fault_points import FaultPoints
from sandfleet.adapters.sparse_files import digest_of
from sandfleet.adapters.task_group import TaskGroup
from sandfleet.model.errors import BlobsUnavailable, NotFound, SnapshotUnusable
from sandfleet.ports.blobs import Progress, StoredFiles
from sandfleet.ports.clock import Clock
from sandfleet.wire.snapshot_manifest import (
    CHUNK_BYTES,
    FORMAT,
    FileDigest,
    SnapshotManifest,
    file_digest,
)

PIECES_AT_ONCE = 8
SEEN_MAX = 500_000


def snapshot_name(snapshot_id: str) -> str:
    """Return the name of a complete snapshot's manifest."""
    return f"snapshots/{snapshot_id}.json"


def upload_name(snapshot_id: str) -> str:
    """Return the name by which a snapshot announces that it is being stored."""
    return f"uploads/{snapshot_id}.json"


def base_name(digest: str) -> str:
    """Return the name of the description of a file that disks stand on."""
    return f"bases/{digest}.json"


@dataclass(slots=True)
class _Count:
    """Bytes done, told to whoever asked for the work."""

    total: int
    progress: Progress
    done: int = 0
    new: int = 0

    def add(self, count: int, *, new: int = 0) -> None:
        self.done += count
        self.new += new
        self.progress(self.done, self.total)


class ObjectSnapshotStore:
    """Snapshots under one URL."""

    def __init__(self, objects: Objects, *, clock: Clock, faults: FaultPoints | None = None) -> None:
        self._objects = objects
        self._clock = clock
        self.faults = faults or FaultPoints()
        self._room = asyncio.Semaphore(PIECES_AT_ONCE)
        self._seen: set[str] = set()

    async def put(self, manifest: SnapshotManifest, files: StoredFiles, *, progress: Progress) -> int:
        """Store the snapshot, verify what was stored, publish it; return the bytes that were new."""
        content = msgspec.json.encode(manifest)
        missing = [digest for digest in manifest.backings.values() if not await self._has_base(digest)]
        bases = {
            name: await asyncio.to_thread(digest_of, files.backings[name])
            for name, digest in manifest.backings.items()
            if digest in missing
        }
        everything = [*manifest.files.values(), *bases.values()]
        count = _Count(sum(len(file.chunks) for file in everything) * CHUNK_BYTES, progress)
        await self._objects.put(upload_name(manifest.snapshot_id), content)
        await self.faults.at("put.announced")
        for name, base in bases.items():
            await self._put_file(files.backings[name], base, count)
            await self._objects.put(base_name(manifest.backings[name]), msgspec.json.encode(base))
        for name, file in manifest.files.items():
            await self._put_file(files.files[name], file, count)
        await self.faults.at("put.stored")
        await self._confirm(everything)
        await self.faults.at("put.confirmed")
        await self._objects.put(snapshot_name(manifest.snapshot_id), content)
        if await self._objects.get(snapshot_name(manifest.snapshot_id)) != content:
            raise BlobsUnavailable(
                "the object store does not give the manifest back as it was", retry_after_s=30
            )
        await self.faults.at("put.published")
        await self._objects.delete(upload_name(manifest.snapshot_id))
        return count.new

    async def manifest(self, snapshot_id: str) -> SnapshotManifest:
        """Return what is published under this name."""
        content = await self._objects.get(snapshot_name(snapshot_id))
        try:
            manifest = msgspec.json.decode(content, type=SnapshotManifest)
        except msgspec.DecodeError as error:
            raise SnapshotUnusable(f"the stored manifest of {snapshot_id} cannot be read: {error}") from error
        if manifest.format != FORMAT:
            raise SnapshotUnusable(
                f"the stored snapshot {snapshot_id} has format {manifest.format}, this version reads {FORMAT}"
            )
        return manifest

    async def fetch(self, manifest: SnapshotManifest, files: StoredFiles, *, progress: Progress) -> None:
        """Write the snapshot's files and the wanted backings to the given paths, verified."""
        await self.faults.at("fetch.begun")
        bases = {name: await self._base(manifest.backings[name]) for name in files.backings}
        everything = [*manifest.files.values(), *bases.values()]
        count = _Count(sum(len(file.chunks) for file in everything) * CHUNK_BYTES, progress)
        for name, base in bases.items():
            await self._fetch_file(base, files.backings[name], count, sha256=manifest.backings[name])
        await self.faults.at("fetch.bases")
        for name, file in manifest.files.items():
            await self._fetch_file(file, files.files[name], count)

    async def put_backings(self, backings: Mapping[str, Path]) -> int:
        """Store files that disks stand on; return the bytes that were new."""
        count = _Count(0, lambda _done, _total: None)
        for digest, path in backings.items():
            if await self._has_base(digest):
                continue
            file = await asyncio.to_thread(digest_of, path)
            await self._put_file(path, file, count)
            await self._confirm([file])
            await self._objects.put(base_name(digest), msgspec.json.encode(file))
        return count.new

    async def fetch_backings(self, wanted: Mapping[str, Path]) -> None:
        """Write the files with these digests to the given paths, verified."""
        count = _Count(0, lambda _done, _total: None)
        for digest, path in wanted.items():
            await self._fetch_file(await self._base(digest), path, count, sha256=digest)

    async def forget(self, snapshot_id: str) -> None:
        """Unpublish; its pieces go with the next sweep."""
        await self._objects.delete(snapshot_name(snapshot_id))
        await self._objects.delete(upload_name(snapshot_id))

    async def sweep(self, *, keep: Collection[str], older_than_s: float) -> int:
        """Remove snapshots that are not in `keep` and pieces that none needs; return how many objects."""
        return await sweeping.sweep(
            self._objects, keep=keep, older_than_s=older_than_s, now=self._clock.now()
        )

    async def _put_file(self, path: Path, file: FileDigest, count: _Count) -> None:
        with _open(path) as fd:
            if os.fstat(fd).st_size != file.size:
                raise SnapshotUnusable(f"{path.name} has another size than was saved")
            async with _together() as group:
                for place, digest in file.chunks.items():
                    await self._begin(group, partial(self._put_piece, fd, place, file, digest, count))

    async def _put_piece(self, fd: int, place: int, file: FileDigest, digest: str, count: _Count) -> None:
        new = 0
        if not await self._is_stored(digest):
            content = await asyncio.to_thread(packed, fd, place, size=file.size, digest=digest)
            await put_verified(self._objects, digest, content)
            self._seen.add(digest)
            new = len(content)
        count.add(CHUNK_BYTES, new=new)

    async def _begin(self, group: TaskGroup, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin the work of one piece when there is room.

        The room is given back by the task's end: a task that is cancelled before its first step
        never comes to a `finally` of its own.
        """
        await self._room.acquire()
        try:
            task = group.create_task(work())
        except BaseException:
            self._room.release()
            raise
        task.add_done_callback(lambda _: self._room.release())

    async def _is_stored(self, digest: str) -> bool:
        """Whether the piece is in the store, whole: what this process has not seen so is read."""
        if digest in self._seen:
            return await self._objects.exists(chunk_name(digest))
        try:
            content = await self._objects.get(chunk_name(digest))
            await asyncio.to_thread(unpacked, content, digest=digest)
        except (NotFound, SnapshotUnusable):
            return False
        if len(self._seen) >= SEEN_MAX:
            self._seen.clear()
        self._seen.add(digest)
        return True

    async def _confirm(self, files: Collection[FileDigest]) -> None:
        """Look once more that all is there: a sweep may have met the upload half way."""
        names = {chunk_name(digest) for file in files for digest in file.chunks.values()}

        async def confirm(name: str) -> None:
            async with self._room:
                if not await self._objects.exists(name):
                    raise BlobsUnavailable(f"{name} has gone from the object store", retry_after_s=1)

        async with _together() as group:
            for name in names:
                group.create_task(confirm(name))

    async def _has_base(self, digest: str) -> bool:
        return await self._objects.exists(base_name(digest))

    async def _base(self, digest: str) -> FileDigest:
        try:
            return msgspec.json.decode(await self._objects.get(base_name(digest)), type=FileDigest)
        except NotFound as error:
            raise SnapshotUnusable(f"the object store lacks what a disk stands on: {digest[:16]}…") from error
        except msgspec.DecodeError as error:
            raise SnapshotUnusable(f"the stored description of {digest[:16]}… cannot be read") from error

    async def _fetch_file(
        self, file: FileDigest, path: Path, count: _Count, *, sha256: str | None = None
    ) -> None:
        if file_digest(file.size, file.chunks) != file.digest:
            raise SnapshotUnusable(f"the pieces of {path.name} are not those that its digest says")
        fresh = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        try:
            fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, file.size)
                await self._fetch_pieces(file, fd, count)
                await asyncio.to_thread(os.fsync, fd)
            finally:
                os.close(fd)
            if sha256 is not None and await asyncio.to_thread(_sha256, fresh) != sha256:
                raise SnapshotUnusable(f"the stored file {path.name} has other bytes than its name says")
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)

    async def _fetch_pieces(self, file: FileDigest, fd: int, count: _Count) -> None:
        async def fetch(place: int, digest: str) -> None:
            try:
                piece = await get_verified(self._objects, digest)
                await asyncio.to_thread(_write, fd, piece, place * CHUNK_BYTES)
                count.add(CHUNK_BYTES)
            except NotFound as error:
                raise SnapshotUnusable(f"the object store lacks piece {digest[:16]}…") from error

        async with _together() as group:
            for place, digest in file.chunks.items():
                await self._begin(group, partial(fetch, place, digest))


@asynccontextmanager
async def _together() -> AsyncIterator[TaskGroup]:
    """A task group whose first failure is raised as itself."""
    try:
        async with TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from failed


@contextmanager
def _open(path: Path) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SnapshotUnusable(f"{path.name} cannot be read: {error.strerror}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def _write(fd: int, piece: bytes, offset: int) -> None:
    while piece:
        written = os.pwrite(fd, piece, offset)
        piece, offset = piece[written:], offset + written


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
