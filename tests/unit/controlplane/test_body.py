"""Bodies are read leniently about names and strictly about types."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandfleet.controlplane.http.body import announced_length, body_pieces, parse_body, read_body
from sandfleet.model.errors import BadRequest, SandfleetError, TooLarge
from sandfleet.wire.public_api import ChangeOrganisation, CreateSandbox, RunCommand


def test_a_missing_body_is_an_empty_object() -> None:
    assert parse_body(b"", CreateSandbox) == CreateSandbox()
    assert parse_body(b"  \n", CreateSandbox) == CreateSandbox()
    assert parse_body(b"null", CreateSandbox) == CreateSandbox()


def test_names_match_in_any_case() -> None:
    body = parse_body(b'{"MEMORYmb": 2048, "templateid": "base"}', CreateSandbox)
    assert body.memory_mb == 2048
    assert body.template_id == "base"


@pytest.mark.parametrize(
    "raw", [b'{"timeout": 1, "TIMEOUT": 2}', b'{"TIMEOUT": 2, "timeout": 1}'], ids=["before", "after"]
)
def test_an_exact_name_wins(raw: bytes) -> None:
    assert parse_body(raw, CreateSandbox).timeout == 1


def test_the_keys_of_maps_are_literal() -> None:
    body = parse_body(b'{"ENVS": {"Path": "a", "PATH": "b"}}', RunCommand)
    assert body.envs == {"Path": "a", "PATH": "b"}


def test_null_equals_absent() -> None:
    assert parse_body(b'{"timeout": null, "envs": null}', CreateSandbox) == CreateSandbox()


def test_an_inexact_null_does_not_hide_an_exact_value() -> None:
    assert parse_body(b'{"timeout": 5, "Timeout": null}', CreateSandbox).timeout == 5


def test_a_whole_number_may_be_written_with_a_point() -> None:
    assert parse_body(b'{"timeout": 5.0}', CreateSandbox).timeout == 5


def test_unknown_fields_are_ignored() -> None:
    assert parse_body(b'{"burst": {"deep": [1]}, "timeout": 3}', CreateSandbox).timeout == 3


def test_nested_objects_follow_the_same_rules() -> None:
    body = parse_body(b'{"QUOTAS": {"MemoryMb": 5, "vcpu": null}}', ChangeOrganisation)
    assert body.quotas is not None
    assert body.quotas.memory_mb == 5


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b'{"timeout": "5"}', "timeout"),
        (b'{"timeout": 5.5}', "timeout"),
        (b'{"timeout": 1e400}', "JSON"),
        (b'{"timeout": true}', "timeout"),
        (b'{"envs": ["A"]}', "envs"),
        (b'{"envs": {"A": 1}}', "envs"),
        (b'{"networkEnabled": 1}', "networkEnabled"),
    ],
)
def test_a_wrong_type_is_refused_by_name(raw: bytes, field: str) -> None:
    with pytest.raises(BadRequest, match=field) as refused:
        parse_body(raw, CreateSandbox)
    assert refused.value.code == "bad_request"


def test_a_refusal_does_not_repeat_the_value() -> None:
    with pytest.raises(BadRequest) as refused:
        parse_body(b'{"timeout": "my-secret-value"}', CreateSandbox)
    assert "my-secret-value" not in refused.value.message


@pytest.mark.parametrize("raw", [b"{", b"[1]", b'"text"', b"5", b"\xff", b'{"a": NaN}', b"[" * 100_000])
def test_what_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_body(raw, CreateSandbox)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(raw: bytes) -> None:
    with suppress(BadRequest):
        assert isinstance(parse_body(raw, CreateSandbox), CreateSandbox)


async def test_a_body_above_its_limit_stops_the_reading() -> None:
    sent = [{"type": "http.request", "body": b"x" * 6, "more_body": True}] * 3
    messages = iter(sent)

    async def receive() -> dict[str, object]:
        return next(messages)

    with pytest.raises(TooLarge):
        await read_body(receive, bytes_max=10)
    assert len(list(messages)) == 1


def test_an_announced_length_is_refused_before_a_byte_is_read() -> None:
    with pytest.raises(TooLarge):
        announced_length("11", bytes_max=10)
    assert announced_length("10", bytes_max=10) == 10
    assert announced_length(None, bytes_max=10) is None
    assert announced_length("chunked", bytes_max=10) is None


async def test_a_client_that_goes_away_ends_the_body_with_an_error() -> None:
    messages = iter(
        [{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> dict[str, object]:
        return next(messages)

    pieces = body_pieces(receive, bytes_max=100)
    assert await anext(pieces) == b"half"
    with pytest.raises(SandfleetError, match="closed"):
        await anext(pieces)
