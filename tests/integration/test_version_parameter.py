"""The wanted version as a parameter: what is there is read, and no answer is an error."""

from __future__ import annotations

from collections.abc import Iterator

import boto3
import pytest

from sandfleet.adapters.machines.version_parameter import VersionParameter
from sandfleet.model.errors import PoolUnreachable

from .ec2_server import serving

REGION, NAME = "eu-central-1", "/sandfleet/version"


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with serving() as (url, _):
        yield url


async def test_the_parameter_is_read_each_time(url: str) -> None:
    source = VersionParameter(region=REGION, name=NAME, endpoint_url=url)
    assert await source.read() is None
    client = boto3.client("ssm", region_name=REGION, endpoint_url=url)
    for value in ("2", "3.1"):
        client.put_parameter(Name=NAME, Value=f"{value}\n", Type="String", Overwrite=True)
        assert await source.read() == value


async def test_no_answer_is_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    nowhere = VersionParameter(region=REGION, name=NAME, endpoint_url="http://127.0.0.1:1")
    with pytest.raises(PoolUnreachable, match="cannot be read"):
        await nowhere.read()
