"""Which headers pass through a preview."""

from __future__ import annotations

from sandfleet.wire.port_headers import end_to_end


def test_headers_of_the_hop_stay_behind() -> None:
    sent = [
        ("Connection", "keep-alive, X-Hop"),
        ("X-Hop", "1"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "websocket"),
        ("X-End", "2"),
        ("Set-Cookie", "a"),
        ("Set-Cookie", "b"),
    ]
    assert end_to_end(sent) == [("X-End", "2"), ("Set-Cookie", "a"), ("Set-Cookie", "b")]
