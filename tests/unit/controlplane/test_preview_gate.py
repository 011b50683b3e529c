"""Which requests are for a guest port, and whom the gate lets pass."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from sandfleet.controlplane.proxy.preview_gate import (
    digest_of,
    first_token,
    is_open_to,
    new_token,
    preview_host,
    without_tokens,
)

SANDBOX = "sb-" + "a1" * 13


def asked(host: str) -> object:
    return preview_host({"headers": [(b"host", host.encode())]})


@pytest.mark.parametrize("rest", ["", ".previews.example", ".localhost:8080", ":80"])
def test_the_first_label_decides_whatever_the_rest_is(rest: str) -> None:
    found = asked(f"{SANDBOX}-p3000{rest}")
    assert (found.sandbox_id, found.port) == (SANDBOX, 3000)  # type: ignore[attr-defined]
    assert asked(f"{SANDBOX.upper()}-P3000{rest}") == found


@pytest.mark.parametrize(
    "host",
    ["", "localhost", SANDBOX, f"{SANDBOX}-p0", f"{SANDBOX}-p65536", f"{SANDBOX}-p123456", f"x.{SANDBOX}-p80",
     f"{SANDBOX}-p", f"{SANDBOX}x-p80", f"{SANDBOX}-p80x.a"],
)  # fmt: skip
def test_every_other_host_is_the_servers_own(host: str) -> None:
    assert asked(host) is None


def test_the_gate_takes_its_token_from_either_place_and_nothing_else() -> None:
    token = new_token()
    digest = digest_of(token)
    for headers in ({"Authorization": f"Bearer {token}"}, {"X-OC-Preview-Token": token}):
        assert is_open_to(digest, Headers(headers))
    for headers in ({}, {"Authorization": f"Basic {token}"}, {"X-OC-Preview-Token": token + "x"}):
        assert not is_open_to(digest, Headers(headers))
    assert is_open_to(None, Headers({}))


def test_only_what_opened_the_gate_is_taken_out() -> None:
    digest = digest_of("the-gate-token-0")
    sent = [
        ("X-OC-Preview-Token", "the-gate-token-0"),
        ("Authorization", "Bearer the-gate-token-0"),
        ("Authorization", "Bearer the-application"),
        ("Accept", "*/*"),
    ]
    kept = [("Authorization", "Bearer the-application"), ("Accept", "*/*")]
    assert without_tokens(sent, digest=digest) == kept
    assert ("Authorization", "Bearer the-gate-token-0") in without_tokens(sent, digest=None)


def test_a_repeated_create_names_the_same_token_and_no_two_sandboxes_share_one() -> None:
    assert first_token("5a" * 32, SANDBOX) == first_token("5a" * 32, SANDBOX)
    assert first_token("5a" * 32, SANDBOX) != first_token("5a" * 32, SANDBOX[:-1] + "2")
    assert first_token("5a" * 32, SANDBOX) != first_token("6b" * 32, SANDBOX)
