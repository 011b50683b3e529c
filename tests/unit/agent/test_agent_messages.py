"""Messages of a peer that lies are refused, whatever they are."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandfleet.adapters.guest.decoding import checked, exec_status, file_entry, guest_stats
from sandfleet.adapters.guest.failures import error_of
from sandfleet.model.errors import BadRequest, ExecFailed, GuestDiskFull, NotFound, SandfleetError
from sandfleet.wire.agent_messages import (
    Fields,
    MalformedMessage,
    decode_json,
    decode_output,
    encode_json,
    encode_output,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = (
    "id",
    "argv",
    "running",
    "exit_code",
    "timed_out",
    "started_at_s",
    "output_bytes",
    "size",
    "name",
    "mode",
)


@given(st.dictionaries(st.sampled_from(NAMES), json_values))
def test_an_answer_is_a_value_or_an_error_of_ours(message: dict[str, object]) -> None:
    for decode in (exec_status, file_entry, guest_stats):
        with contextlib.suppress(SandfleetError):
            checked(decode, Fields(message))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b'"x"',
        b"{",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b"\xff\xfe",
        b'{"a":' * 5000,
        b"[" * 60_000,
    ],
)
def test_what_is_no_object_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_json(data)


def test_a_message_beyond_its_bound_is_malformed() -> None:
    with pytest.raises(MalformedMessage, match="bytes"):
        decode_json(b'{"a":"' + b"x" * 100 + b'"}', bytes_max=50)


@given(st.binary(max_size=50))
def test_names_of_files_survive_json(raw: bytes) -> None:
    name = raw.decode("utf-8", "surrogateescape")
    decoded = decode_json(encode_json({"name": name}))["name"]
    assert decoded.encode("utf-8", "surrogateescape") == raw
    assert json.loads(encode_json({"name": name})) == {"name": name}


@given(st.sampled_from([1, 2]), st.integers(0, 2**64 - 1), st.binary(min_size=1, max_size=50))
def test_output_comes_back(stream: int, offset: int, data: bytes) -> None:
    assert decode_output(encode_output(stream, offset, data)) == (stream, offset, data)


@pytest.mark.parametrize("payload", [b"", b"\1" + bytes(8), b"\3" + bytes(8) + b"x", b"\0" + bytes(8) + b"x"])
def test_output_that_is_none_is_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_output(payload)


@pytest.mark.parametrize(
    ("code", "kind", "public"),
    [
        ("not_found", NotFound, "not_found"),
        ("is_directory", BadRequest, "is_directory"),
        ("exec_failed", ExecFailed, "exec_failed"),
        ("disk_full", GuestDiskFull, "disk_full"),
        ("moved", SandfleetError, "internal"),
        ("gone", SandfleetError, "internal"),
    ],
)
def test_a_guest_can_only_raise_what_guests_may(code: str, kind: type[Exception], public: str) -> None:
    error = error_of(code, "why", details={})
    assert type(error) is kind
    assert error.code == public
