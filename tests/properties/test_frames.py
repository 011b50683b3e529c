"""Frames survive any cutting of the stream, and nothing that is not a frame becomes one."""

from __future__ import annotations

import itertools
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandfleet.wire.frames import (
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    MAGIC,
    PADDING,
    PAYLOAD_BYTES_MAX,
    Frame,
    FrameReader,
    FrameType,
    encode,
)

streams = st.integers(0, 2**32 - 1)
payloads = st.one_of(
    st.binary(max_size=200), st.integers(0, PAYLOAD_BYTES_MAX).map(lambda size: b"\xa5" * size)
)
frames = st.builds(Frame, st.sampled_from(FrameType), streams, payloads)
# Garbage that tries: magic numbers, heads of frames, zeros.
garbage = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.just(MAGIC),
        st.just(bytes(30)),
        st.builds(lambda frame, cut: bytes_of(frame)[:cut], frames, st.integers(1, HEADER_BYTES)),
    ),
    max_size=4,
).map(b"".join)


def bytes_of(frame: Frame) -> bytes:
    return encode(frame.kind, stream=frame.stream, payload=frame.payload)


def read_all(reader: FrameReader, data: bytes, cuts: list[int]) -> list[Frame]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    found = []
    for start, end in itertools.pairwise(edges):
        reader.feed(data[start:end])
        while (frame := reader.next_frame()) is not None:
            found.append(frame)
    return found


@given(st.lists(frames, max_size=6), st.lists(st.integers(0, 10**6), max_size=20))
def test_whole_frames_come_back_however_the_stream_is_cut(sent: list[Frame], cuts: list[int]) -> None:
    reader = FrameReader()
    assert read_all(reader, b"".join(map(bytes_of, sent)), cuts) == sent
    assert reader.skipped_bytes == 0


@given(garbage, frames, st.lists(st.integers(0, 10**6), max_size=8))
def test_a_frame_behind_padding_is_found_after_any_garbage(
    before: bytes, frame: Frame, cuts: list[int]
) -> None:
    reader = FrameReader()
    found = read_all(reader, before + PADDING + bytes_of(frame), cuts)
    assert found[-1] == frame
    assert reader.skipped_bytes > 0


@given(frames, st.integers(0, 10**6), frames)
def test_a_frame_cut_short_is_never_delivered(first: Frame, cut: int, second: Frame) -> None:
    whole = bytes_of(first)
    reader = FrameReader()
    half = whole[: cut % len(whole)]
    assert read_all(reader, half + PADDING + bytes_of(second), []) == [second]


@given(st.binary(max_size=3000))
def test_garbage_is_never_kept(data: bytes) -> None:
    reader = FrameReader()
    assert read_all(reader, data, []) == []
    assert len(reader._buffer) < FRAME_BYTES_MAX


@given(frames, st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_header_is_no_header(frame: Frame, at: int, change: int) -> None:
    data = bytearray(encode(frame.kind, stream=frame.stream, payload=b""))
    data[at % HEADER_BYTES] ^= change
    assert read_all(FrameReader(), bytes(data), []) == []


def test_a_payload_that_is_too_long_is_refused_on_both_sides() -> None:
    too_long = b"x" * (PAYLOAD_BYTES_MAX + 1)
    with pytest.raises(ValueError, match="does not fit"):
        encode(FrameType.DATA, payload=too_long)
    assert read_all(FrameReader(), hostile_header(length=PAYLOAD_BYTES_MAX + 1) + too_long, []) == []


def hostile_header(*, length: int) -> bytes:
    """Return a header with a right checksum and an absurd length."""
    fields = struct.pack("!4sB3xII", MAGIC, FrameType.DATA, 1, length)
    return fields + struct.pack("!I", zlib.crc32(fields))
