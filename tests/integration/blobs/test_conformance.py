"""Every object store keeps the same promises: a directory, S3, Azure Blob and what speaks as GCS does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.integration.blobs.conftest import (
    new_bucket,
    new_container,
    point_at_azure,
    point_at_gcs,
    point_at_s3,
)
from tests.integration.blobs.faulty_proxy import Faults, faulty_proxy

from sandfleet.adapters.blobs.objects import Objects
from sandfleet.adapters.blobs.snapshot_store import ObjectSnapshotStore
from sandfleet.adapters.clock import SystemClock
from sandfleet.model.errors import BadRequest
from sandfleet.testing.conformance.blobs import CHECKS, Check, Subject

CREDENTIAL = "test/20260101/us-east-1/s3/aws4_request"
AS_S3 = {"Authorization": f"AWS4-HMAC-SHA256 Credential={CREDENTIAL}, SignedHeaders=host, Signature=none"}


@pytest.fixture(params=["directory", "s3", "gcs", "azure"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of store; its server runs from here on."""
    server = {"s3": "s3_server", "gcs": "s3_server", "azure": "azure_server"}.get(request.param)
    if server is not None:
        request.getfixturevalue(server)
    return str(request.param)


@pytest.fixture
async def url(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[str]:
    """The URL of an empty store."""
    if kind == "directory":
        yield (tmp_path / "a store").as_uri()
    elif kind == "azure":
        address = request.getfixturevalue("azure_server")
        point_at_azure(monkeypatch, address)
        yield new_container(address)
    else:
        address = request.getfixturevalue("s3_server")
        bucket = new_bucket(address)
        if kind == "s3":
            point_at_s3(monkeypatch, address)
            yield bucket
            return
        async with faulty_proxy(address, Faults(replaces=AS_S3, has_plain_paths=True)) as front:
            point_at_gcs(monkeypatch, front)
            yield bucket.replace("s3://", "gs://", 1)


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
