"""Heads and frames of a preview's way through a worker."""

from __future__ import annotations

import pytest

from sandfleet.model.errors import BadRequest
from sandfleet.wire.port_frames import (
    FRAME_BYTES_MAX,
    HEAD_BYTES_MAX,
    FrameKind,
    FrameReader,
    HeadReader,
    PortAnswer,
    PortRequest,
    encode_frame,
    encode_head,
    end_to_end,
)

REQUEST = PortRequest(method="GET", target="/a%2Fb?x", headers=[("Cookie", "ä"), ("Cookie", "b")])


def test_a_head_is_read_however_it_is_cut() -> None:
    data = encode_head(REQUEST) + b"body"
    for cut in range(1, len(data)):
        reader = HeadReader()
        found = reader.feed(data[:cut], PortRequest)
        if found is None:
            found = reader.feed(data[cut:], PortRequest)
            assert reader.rest == b"body"
        assert found == REQUEST


def test_what_is_no_head_is_refused() -> None:
    for data in (b"\xff\xff\xff\xff", (HEAD_BYTES_MAX + 1).to_bytes(4, "big"), b"\0\0\0\2{]"):
        with pytest.raises(BadRequest):
            HeadReader().feed(data, PortAnswer)


def test_frames_are_read_however_they_are_cut() -> None:
    sent = [(FrameKind.TEXT, b"one"), (FrameKind.BINARY, b""), (FrameKind.CLOSE, b"{}")]
    data = b"".join(encode_frame(kind, payload) for kind, payload in sent)
    for size in (1, 2, 7, len(data)):
        reader = FrameReader()
        found = [
            frame for start in range(0, len(data), size) for frame in reader.feed(data[start : start + size])
        ]
        assert found == sent


def test_what_is_no_frame_is_refused() -> None:
    for data in (b"\x07\0\0\0\0", b"\x01" + (FRAME_BYTES_MAX + 1).to_bytes(4, "big")):
        with pytest.raises(BadRequest):
            list(FrameReader().feed(data))


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
