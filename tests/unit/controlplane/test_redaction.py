"""No key, token or signature survives redaction, wherever it stands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandfleet.controlplane.http.redaction import (
    REDACTED,
    redact_event,
    redact_query,
    redact_text,
)

KEY = "osb_" + "a1b2" * 10
TOKEN = "eyJhbGciOiJFZERTQSJ9.eyJzYW5kYm94X2lkIjoic2ItMSJ9.c2lnbmF0dXJlLXNpZ25hdHVyZQ"


@pytest.mark.parametrize("name", ["api_key", "key", "token", "signature", "API_KEY", "api%5Fkey"])
def test_secret_query_values_are_taken_out(name: str) -> None:
    assert redact_query(f"path=/a&{name}=plain-bootstrap-key-1234&x=1") == f"path=/a&{name}={REDACTED}&x=1"


def test_other_query_values_stay() -> None:
    assert redact_query("path=/home/x%20y&limit=3&monkey=1") == "path=/home/x%20y&limit=3&monkey=1"


@pytest.mark.parametrize("secret", [KEY, TOKEN])
def test_secrets_are_known_by_their_form(secret: str) -> None:
    assert secret not in redact_text(f"sent {secret} to us")
    assert secret not in redact_query(f"path=/{secret}")


def test_the_password_of_a_url_is_taken_out() -> None:
    assert "hunter2" not in redact_text("cannot reach postgresql://me:hunter2@db:5432/x")


@pytest.mark.parametrize("name", ["X-API-Key", "authorization", "X-OC-Preview-Token", "Cookie"])
def test_headers_with_secrets_are_taken_out(name: str) -> None:
    assert redact_event(None, "info", {name: "short", "accept": "*/*"}) == {name: REDACTED, "accept": "*/*"}


def test_log_lines_are_redacted_by_name_and_by_form() -> None:
    event = redact_event(None, "info", {"event": f"saw {KEY}", "token": "abc", "status": 200})
    assert KEY not in str(event)
    assert event["token"] == REDACTED
    assert event["status"] == 200


@given(
    st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789", min_size=40, max_size=40), st.text(max_size=30)
)
def test_no_key_survives_in_any_text(body: str, around: str) -> None:
    assert f"osb_{body}" not in redact_text(f"{around}osb_{body} {around}")


def test_a_token_that_follows_a_key_without_a_gap_does_not_survive() -> None:
    assert TOKEN[20:] not in redact_text(f"{KEY}-{TOKEN}")


def test_a_long_text_is_looked_through_once() -> None:
    long = "a" * 2_000_000 + ".."
    assert redact_text(long) == long
