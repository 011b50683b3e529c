"""Bodies of one-shot commands and queries of file routes, as both sides of the proxy read them."""

from __future__ import annotations

import pytest

from sandfleet.model.errors import BadRequest
from sandfleet.wire.exec_request import parse_exec_request
from sandfleet.wire.file_requests import deletable_path, resolved


def test_names_are_found_in_any_case_and_an_exact_one_wins() -> None:
    request = parse_exec_request(b'{"CMD":"a","cmd":"b","ENVS":{"x":"1","X":"2"}}', timeout_default_s=60)
    assert request.argv == ("/bin/sh", "-c", "b")
    assert request.envs == {"x": "1", "X": "2"}


def test_null_is_absent_everywhere() -> None:
    body = b'{"cmd":"a","args":null,"envs":{"A":null},"cwd":null,"timeout":null}'
    request = parse_exec_request(body, timeout_default_s=9)
    assert (request.envs, request.cwd, request.timeout_s) == ({}, None, 9)


@pytest.mark.parametrize(("given", "seconds"), [("0", 60), ("1", 1), ("5.0", 5), ("86400", 86400)])
def test_timeouts(given: str, seconds: int) -> None:
    body = f'{{"cmd":"a","timeout":{given}}}'.encode()
    assert parse_exec_request(body, timeout_default_s=60).timeout_s == seconds


@pytest.mark.parametrize("given", ["-1", "86401", "1.5", '"1"', "false"])
def test_other_timeouts_are_refused(given: str) -> None:
    with pytest.raises(BadRequest):
        parse_exec_request(f'{{"cmd":"a","timeout":{given}}}'.encode(), timeout_default_s=60)


@pytest.mark.parametrize(
    "path", ["/", "//", "/.", "/dev", "/proc/", "//sys", "/a/../dev", "../..", "../../proc"]
)
def test_what_is_never_deleted(path: str) -> None:
    with pytest.raises(BadRequest):
        deletable_path(path)


def test_relative_paths_begin_at_home() -> None:
    assert resolved("a/./b/../c") == "/home/sandbox/a/c"
    assert resolved("/a//b") == "/a/b"
