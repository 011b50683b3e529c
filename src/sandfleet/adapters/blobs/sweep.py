"""Collecting what no snapshot needs: mark by the manifests, sweep the rest, never what is young.

Facts: an upload may begin while a sweep runs, and rely on a piece that the sweep did not see
marked. It announces itself first, so marks are read anew before each batch of removals, and it
looks once more for all its pieces before it publishes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import PurePosixPath

import msgspec

from sandfleet.adapters.blobs.objects import Listed, Objects
from sandfleet.adapters.blobs.pieces import chunk_name
from sandfleet.model.errors import BlobsUnavailable, NotFound
from sandfleet.wire.snapshot_manifest import FileDigest, SnapshotManifest

BATCH = 200


@dataclass(slots=True)
class _Marks:
    """Names that are needed, and the manifests that were read for them."""

    names: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)


async def sweep(objects: Objects, *, keep: Collection[str], older_than_s: float, now: datetime) -> int:
    """Remove what nothing in `keep`, and nothing young, needs; return how many objects went."""
    before = now - timedelta(seconds=older_than_s)
    marks = _Marks()
    ended = await _mark(objects, marks, keep=keep, before=before)
    for listed in ended:
        await objects.delete(listed.name)
    removed = len(ended)
    for prefix in ("bases", "chunks"):
        old = [item async for item in objects.list(prefix) if item.changed_at < before]
        garbage = [item.name for item in old if item.name not in marks.names]
        for batch in _batches(garbage):
            await _mark(objects, marks, keep=keep, before=before)
            for name in batch:
                if name not in marks.names:
                    await objects.delete(name)
                    removed += 1
    return removed


async def _mark(objects: Objects, marks: _Marks, *, keep: Collection[str], before: datetime) -> list[Listed]:
    """Mark what each manifest needs that was not read yet; return the manifests that nobody needs."""
    ended: list[Listed] = []
    for prefix in ("snapshots", "uploads"):
        async for item in objects.list(prefix):
            if PurePosixPath(item.name).stem not in keep and item.changed_at < before:
                ended.append(item)
            elif item.name not in marks.seen:
                await _mark_one(objects, marks, item.name)
                marks.seen.add(item.name)
    return ended


async def _mark_one(objects: Objects, marks: _Marks, name: str) -> None:
    try:
        manifest = msgspec.json.decode(await objects.get(name), type=SnapshotManifest)
        marks.names.update(_chunks(manifest.files.values()))
        for digest in manifest.backings.values():
            base = f"bases/{digest}.json"
            marks.names.add(base)
            marks.names.update(_chunks([msgspec.json.decode(await objects.get(base), type=FileDigest)]))
    except NotFound:
        return  # The upload has just ended, or has not described its bases yet: its pieces are young.
    except msgspec.DecodeError as error:
        # What is needed is not known: nothing may be removed.
        raise BlobsUnavailable(f"{name} cannot be read, so nothing is swept: {error}") from error


def _chunks(files: Iterable[FileDigest]) -> Iterable[str]:
    return (chunk_name(digest) for file in files for digest in file.chunks.values())


def _batches(names: list[str]) -> Iterable[list[str]]:
    return (names[at : at + BATCH] for at in range(0, len(names), BATCH))
