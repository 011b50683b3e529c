"""Every object store keeps the same promises: a directory, S3 and Azure Blob."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.blobs.conftest import new_bucket, new_container, point_at_azure, point_at_s3

from sandfleet.adapters.blobs.objects import Objects
from sandfleet.adapters.blobs.snapshot_store import ObjectSnapshotStore
from sandfleet.adapters.clock import SystemClock
from sandfleet.model.errors import BadRequest
from sandfleet.testing.conformance.blobs import CHECKS, Check, Subject


@pytest.fixture(params=["directory", "s3", "azure"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty store."""
    if request.param == "directory":
        return (tmp_path / "a store").as_uri()
    if request.param == "s3":
        address = request.getfixturevalue("s3_server")
        point_at_s3(monkeypatch, address)
        return new_bucket(address)
    address = request.getfixturevalue("azure_server")
    point_at_azure(monkeypatch, address)
    return new_container(address)


@pytest.fixture
def subject(url: str, tmp_path: Path) -> Iterator[Subject]:
    """A store and a place for files."""
    objects = Objects.open(url)
    directory = tmp_path / "files"
    directory.mkdir()
    yield Subject(ObjectSnapshotStore(objects, clock=SystemClock()), objects, directory)
    objects.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_a_store_conforms(subject: Subject, check: Check) -> None:
    await check(subject)


def test_an_unknown_kind_of_store_is_refused() -> None:
    with pytest.raises(BadRequest, match="file, s3, az, gs"):
        Objects.open("ftp://somewhere/else")
