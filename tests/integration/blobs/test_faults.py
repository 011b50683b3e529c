"""Networks and stores that fail: nothing wrong is stored or handed out, and what can go on does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from tests.integration.blobs.conftest import new_bucket, point_at_s3
from tests.integration.blobs.faulty_proxy import Faults, faulty_proxy

from sandfleet.adapters.blobs import objects as objects_module
from sandfleet.adapters.blobs.objects import Objects
from sandfleet.adapters.blobs.snapshot_store import PIECES_AT_ONCE, ObjectSnapshotStore
from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.sparse_files import digest_of
from sandfleet.model.errors import BlobsUnavailable, NotFound, SnapshotUnusable
from sandfleet.ports.blobs import StoredFiles
from sandfleet.testing.conformance.blobs import a_snapshot, files_in, silent
from sandfleet.wire.snapshot_manifest import CHUNK_BYTES, SnapshotManifest


@asynccontextmanager
async def a_store(
    server: str,
    monkeypatch: pytest.MonkeyPatch,
    faults: Faults,
    *,
    request_timeout: timedelta = timedelta(seconds=60),
) -> AsyncIterator[ObjectSnapshotStore]:
    """A store behind a proxy that misbehaves as told."""
    url = new_bucket(server)
    async with faulty_proxy(server, faults) as address:
        point_at_s3(monkeypatch, address)
        monkeypatch.setattr(objects_module, "RETRIES_MAX", 2)
        monkeypatch.setattr(objects_module, "RETRY_TIMEOUT", timedelta(seconds=100))
        monkeypatch.setattr(objects_module, "REQUEST_TIMEOUT", request_timeout)
        objects = Objects.open(url)
        try:
            yield ObjectSnapshotStore(objects, clock=SystemClock())
        finally:
            objects.close()


@pytest.fixture
def manifest(tmp_path: Path) -> SnapshotManifest:
    return a_snapshot(tmp_path / "source", "s-1", seed=1)


async def _comes_back(store: ObjectSnapshotStore, manifest: SnapshotManifest, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    await store.fetch(manifest, files_in(target, manifest), progress=silent)
    for name in manifest.files:
        assert (target / name).read_bytes() == (tmp_path / "source" / name).read_bytes()


async def test_a_server_that_fails_now_and_then_is_asked_again(
    s3_server: str, monkeypatch: pytest.MonkeyPatch, manifest: SnapshotManifest, tmp_path: Path
) -> None:
    faults = Faults()
    refused: set[tuple[str, str]] = set()

    def once(method: str, path: str) -> int | None:
        if (method, path) in refused:
            return None
        refused.add((method, path))
        return 503

    faults.refuses = once
    async with a_store(s3_server, monkeypatch, faults) as store:
        await store.put(manifest, files_in(tmp_path / "source", manifest), progress=silent)
        await _comes_back(store, manifest, tmp_path)


async def test_a_server_that_always_fails_is_given_up_and_later_gone_on_with(
    s3_server: str, monkeypatch: pytest.MonkeyPatch, manifest: SnapshotManifest, tmp_path: Path
) -> None:
    faults = Faults()
    files = files_in(tmp_path / "source", manifest)
    async with a_store(s3_server, monkeypatch, faults) as store:
        faults.refuses = lambda method, path: 500 if method == "PUT" and faults.requests > 8 else None
        with pytest.raises(BlobsUnavailable) as failed:
            await store.put(manifest, files, progress=silent)
        assert failed.value.retry_after_s >= 1
        with pytest.raises(NotFound):
            await store.manifest("s-1")
        faults.refuses = lambda _method, _path: None
        assert await store.put(manifest, files, progress=silent) > 0
        await _comes_back(store, manifest, tmp_path)


async def test_a_torn_upload_is_never_published(
    s3_server: str, monkeypatch: pytest.MonkeyPatch, manifest: SnapshotManifest, tmp_path: Path
) -> None:
    faults = Faults()
    files = files_in(tmp_path / "source", manifest)
    async with a_store(s3_server, monkeypatch, faults) as store:
        faults.tears = lambda method, path: method == "PUT" and "/chunks/" in path
        with pytest.raises(BlobsUnavailable, match="does not give back"):
            await store.put(manifest, files, progress=silent)
        with pytest.raises(NotFound):
            await store.manifest("s-1")
        faults.tears = lambda _method, _path: False
        await store.put(manifest, files, progress=silent)
        await _comes_back(store, manifest, tmp_path)


async def test_a_manifest_that_was_torn_is_not_called_durable(
    s3_server: str, monkeypatch: pytest.MonkeyPatch, manifest: SnapshotManifest, tmp_path: Path
) -> None:
    faults = Faults()
    faults.tears = lambda method, path: method == "PUT" and "/snapshots/" in path
    async with a_store(s3_server, monkeypatch, faults) as store:
        with pytest.raises(BlobsUnavailable, match="manifest"):
            await store.put(manifest, files_in(tmp_path / "source", manifest), progress=silent)
        with pytest.raises(SnapshotUnusable):
            await store.manifest("s-1")


async def test_bytes_that_change_on_the_way_are_noticed(
    s3_server: str, monkeypatch: pytest.MonkeyPatch, manifest: SnapshotManifest, tmp_path: Path
) -> None:
    faults = Faults()
    async with a_store(s3_server, monkeypatch, faults) as store:
        await store.put(manifest, files_in(tmp_path / "source", manifest), progress=silent)
        faults.spoils = lambda method, path: method == "GET" and "/chunks/" in path
        target = tmp_path / "target"
        target.mkdir()
        with pytest.raises(SnapshotUnusable):
            await store.fetch(manifest, files_in(target, manifest), progress=silent)
        assert list(target.iterdir()) == []


async def test_bytes_that_change_on_the_way_once_are_asked_for_again(
    s3_server: str, monkeypatch: pytest.MonkeyPatch, manifest: SnapshotManifest, tmp_path: Path
) -> None:
    faults = Faults()
    spoilt: set[str] = set()

    def once(method: str, path: str) -> bool:
        if method != "GET" or "/chunks/" not in path or path in spoilt:
            return False
        spoilt.add(path)
        return True

    async with a_store(s3_server, monkeypatch, faults) as store:
        await store.put(manifest, files_in(tmp_path / "source", manifest), progress=silent)
        faults.spoils = once
        await _comes_back(store, manifest, tmp_path)
    assert spoilt


async def test_a_server_that_hangs_is_given_up(
    s3_server: str, monkeypatch: pytest.MonkeyPatch, manifest: SnapshotManifest, tmp_path: Path
) -> None:
    faults = Faults()
    async with a_store(s3_server, monkeypatch, faults, request_timeout=timedelta(seconds=1)) as store:
        faults.delay = lambda method, _path: 4.0 if method == "PUT" else 0.0
        with pytest.raises(BlobsUnavailable):
            await store.put(manifest, files_in(tmp_path / "source", manifest), progress=silent)


@pytest.mark.parametrize("point", ["put.announced", "put.stored", "put.published"])
async def test_an_upload_that_dies_at_any_step_is_gone_on_with(
    manifest: SnapshotManifest, tmp_path: Path, point: str
) -> None:
    objects = Objects.open((tmp_path / "store").as_uri())
    files = files_in(tmp_path / "source", manifest)
    dying = ObjectSnapshotStore(objects, clock=SystemClock())

    async def die() -> None:
        raise RuntimeError("dead")

    dying.faults.actions[point] = die
    with pytest.raises(RuntimeError, match="dead"):
        await dying.put(manifest, files, progress=silent)
    store = ObjectSnapshotStore(objects, clock=SystemClock())
    if point != "put.published":
        with pytest.raises(NotFound):
            await store.manifest("s-1")
    await store.sweep(keep={"s-1"}, older_than_s=-60)
    await store.put(manifest, files, progress=silent)
    await _comes_back(store, manifest, tmp_path)
    await store.forget("s-1")
    await store.sweep(keep=set(), older_than_s=-60)
    assert [item async for item in objects.list("")] == []
    objects.close()


async def test_failures_leave_the_store_as_able_as_before(
    manifest: SnapshotManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces cancelled before they began give their place back, or the next ones would wait for ever."""
    big = tmp_path / "source" / "big"
    with big.open("wb") as file:
        for place in range(3 * PIECES_AT_ONCE):
            file.seek(place * CHUNK_BYTES)
            file.write(bytes([place + 1]))
    manifest = msgspec.structs.replace(manifest, files={"big": digest_of(big), **manifest.files})
    objects = Objects.open((tmp_path / "store").as_uri())
    store = ObjectSnapshotStore(objects, clock=SystemClock())
    await store.put(manifest, files_in(tmp_path / "source", manifest), progress=silent)
    real = objects.get

    async def refused(name: str) -> bytes:
        if name.startswith("chunks/"):
            raise BlobsUnavailable("the store is away", retry_after_s=1)
        return await real(name)

    async with asyncio.timeout(110):
        monkeypatch.setattr(objects, "get", refused)
        for number in range(40):
            target = tmp_path / f"failed-{number}"
            target.mkdir()
            with pytest.raises(BlobsUnavailable):
                await store.fetch(
                    manifest,
                    StoredFiles(files_in(target, manifest).files, backings={}),
                    progress=silent,
                )
        monkeypatch.setattr(objects, "get", real)
        await _comes_back(store, manifest, tmp_path)
    objects.close()
