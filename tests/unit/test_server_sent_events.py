"""Server-sent events: their bytes, who asks for them, and where a reader goes on."""

from __future__ import annotations

import pytest

from sandfleet.wire.server_sent_events import KEEPALIVE, event, is_asked_for, number_of
from sandfleet_sdk import BadAnswer, NotFound, Unavailable, Unreachable
from sandfleet_sdk.event_feed import Feed, sandbox_feed


def test_an_event_has_one_line_of_each() -> None:
    assert event("hibernate", b'{"a":1}', number=7) == b'id: 7\nevent: hibernate\ndata: {"a":1}\n\n'
    assert event("gap", b"{}") == b"event: gap\ndata: {}\n\n"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, False),
        ("*/*", False),
        ("application/json", False),
        ("text/event-stream", True),
        ("application/json, Text/Event-Stream;q=0.9", True),
    ],
)
def test_a_stream_is_only_for_who_names_it(accept: str | None, expected: bool) -> None:
    assert is_asked_for(accept) is expected


def test_only_numbers_of_events_are_numbers() -> None:
    assert number_of(None) is number_of("") is None
    assert number_of("12") == 12
    for text in ("-1", "1.5", "x", "\u0661", "9" * 19):
        with pytest.raises(ValueError, match="not the number"):
            number_of(text)


def test_a_feed_reads_events_in_pieces_and_knows_where_it_is() -> None:
    feed = sandbox_feed("sb-x")
    data = event("create", b'{"id":3,"to":"running"}', number=3) + KEEPALIVE + event("gap", b'{"oldest":9}')
    seen = [found for at in range(len(data)) for found in feed.take(data[at : at + 1])]
    assert [(one.event, one.after) for one in seen] == [("create", "running"), ("gap", None)]
    assert feed.after == 3
    assert feed.call.query == {"after": "3"}
    feed.take(b"id: 8\nevent: cut off")
    feed.begin()
    (one,) = feed.take(event("wake", b"{}", number=8))
    assert (one.event, feed.after) == ("wake", 8)


def test_a_feed_goes_on_after_what_may_pass_and_ends_with_what_may_not() -> None:
    feed = sandbox_feed("sb-x")
    assert feed.failed(Unreachable("away")) < feed.failed(Unreachable("away"))
    feed.failed(Unavailable("not now", status=503, code="shutting_down"))
    with pytest.raises(NotFound):
        feed.failed(NotFound("no such sandbox", status=404, code="not_found"))
    with pytest.raises(Unreachable):
        _fail_for_ever(feed)
    feed.take(KEEPALIVE)
    feed.failed(Unreachable("away"))  # whoever answered again is given all the time again
    with pytest.raises(BadAnswer):
        feed.take(b"event: x\ndata: {not json\n\n")


def _fail_for_ever(feed: Feed) -> None:
    for _ in range(100):
        feed.failed(Unreachable("away"))
