"""Snapshots by their bytes: digests of sparse files, the manifest's way there and back, what is refused."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandfleet.adapters.sparse_files import allocated_bytes, digest_of, fingerprint, places
from sandfleet.testing.conformance.blobs import SPARSE_BYTES, a_snapshot
from sandfleet.wire.snapshot_manifest import CHUNK_BYTES, SnapshotManifest, file_digest, stored_bytes


def write(path: Path, size: int, *pieces: tuple[int, bytes]) -> Path:
    with open(path, "wb") as file:
        file.truncate(size)
        for offset, content in pieces:
            file.seek(offset)
            file.write(content)
    return path


def test_holes_and_zeroes_are_the_same_and_cost_nothing(tmp_path: Path) -> None:
    size = 3 * CHUNK_BYTES + 5
    sparse = write(tmp_path / "sparse", size, (CHUNK_BYTES + 9, b"x"))
    full = write(tmp_path / "full", size, (0, bytes(size)), (CHUNK_BYTES + 9, b"x"))
    assert digest_of(sparse) == digest_of(full)
    assert list(digest_of(full).chunks) == [1]
    assert allocated_bytes(sparse) < CHUNK_BYTES < allocated_bytes(full)
    assert (sparse.read_bytes(), digest_of(sparse).size) == (full.read_bytes(), size)


def test_each_byte_place_and_size_counts(tmp_path: Path) -> None:
    size = 2 * CHUNK_BYTES
    variants = [
        write(tmp_path / "a", size, (0, b"x")),
        write(tmp_path / "b", size, (1, b"x")),
        write(tmp_path / "c", size, (CHUNK_BYTES, b"x")),
        write(tmp_path / "d", size + 1, (0, b"x")),
        write(tmp_path / "e", size),
    ]
    digests = {digest_of(path).digest for path in variants}
    assert len(digests) == len(variants)
    assert digest_of(variants[-1]).chunks == {}


def test_the_last_piece_is_as_short_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a", CHUNK_BYTES + 3, (CHUNK_BYTES, b"abc"))
    assert digest_of(path).chunks == {1: hashlib.sha256(b"abc").hexdigest()}


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(0, 40_000),
    pieces=st.lists(st.tuples(st.integers(0, 39_999), st.binary(min_size=1, max_size=200)), max_size=5),
)
def test_the_digest_is_that_of_the_content(
    tmp_path_factory: pytest.TempPathFactory, size: int, pieces: list[tuple[int, bytes]]
) -> None:
    path = write(tmp_path_factory.mktemp("f") / "a", size, *((o, p) for o, p in pieces if o + len(p) <= size))
    found, content = digest_of(path), path.read_bytes()
    expected = {0: hashlib.sha256(content).hexdigest()} if content.strip(b"\0") else {}
    assert found.chunks == expected
    assert found.digest == file_digest(size, expected)


def test_places_are_those_that_hold_anything_in_order_and_once(tmp_path: Path) -> None:
    pieces = [(place * CHUNK_BYTES + 4096 * n, b"x" * 4096) for place in (1, 2, 5) for n in (0, 3, 9)]
    path = write(tmp_path / "a", 8 * CHUNK_BYTES, *pieces)
    fd = os.open(path, os.O_RDONLY)
    try:
        assert list(places(fd, 8 * CHUNK_BYTES)) == [1, 2, 5]
    finally:
        os.close(fd)


def test_a_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    manifest = a_snapshot(tmp_path, "s-1", seed=1)
    encoded = msgspec.json.encode(manifest)
    assert msgspec.json.decode(encoded, type=SnapshotManifest) == manifest
    assert manifest.files["memory"].size == SPARSE_BYTES
    assert stored_bytes(manifest) == sum(len(file.chunks) for file in manifest.files.values()) * CHUNK_BYTES


def test_a_fingerprint_changes_with_a_write_and_not_with_a_link(tmp_path: Path) -> None:
    path = write(tmp_path / "a", 100)
    os.utime(path, ns=(1, 1))
    before = fingerprint(path)
    os.link(path, tmp_path / "b")
    (tmp_path / "b").unlink()
    assert fingerprint(path) == before
    write(path, 100, (5, b"x"))
    assert fingerprint(path) != before
