"""Cursors, links, limits, and the header `Prefer`."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from sandfleet.controlplane.http.paging import decode_cursor, encode_cursor, next_link, page_limit
from sandfleet.controlplane.http.preference import preferred_wait_s
from sandfleet.model.errors import BadRequest


@given(st.datetimes(timezones=st.just(UTC)), st.from_regex(r"sb-[a-z2-7]{26}", fullmatch=True))
def test_a_cursor_comes_back_as_it_was(moment: datetime, sandbox_id: str) -> None:
    assert decode_cursor(encode_cursor(moment, sandbox_id)) == (moment, sandbox_id)


@given(st.text(max_size=60))
def test_no_text_breaks_the_cursor(text: str) -> None:
    with suppress(BadRequest):
        decoded = decode_cursor(text)
        assert decoded is None or decoded[0].tzinfo is not None


@pytest.mark.parametrize(("text", "limit"), [("limit=5", 5), ("limit=5000", 1000), ("", 100)])
def test_limits(text: str, limit: int) -> None:
    assert page_limit(QueryParams(text)) == limit


@pytest.mark.parametrize("text", ["limit=0", "limit=-1", "limit=x", "limit=", "limit=1e3", "limit=٣"])
def test_limits_that_are_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        page_limit(QueryParams(text))


def test_the_link_keeps_the_filter_and_drops_the_credential() -> None:
    link = next_link("https://x", "/api/sandboxes", "status=all&api_key=osb_1&cursor=old", cursor="new")
    assert link == {"Link": '<https://x/api/sandboxes?status=all&cursor=new>; rel="next"'}


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("respond-async", 0.0),
        ("wait=5", 5.0),
        ('handling=lenient, wait="7"', 7.0),
        ("WAIT=5", 5.0),
        ("wait=5, respond-async", 0.0),
        ("wait=-1", None),
        ("wait=soon", None),
    ],
)
def test_prefer(header: str | None, seconds: float | None) -> None:
    assert preferred_wait_s(header) == seconds
