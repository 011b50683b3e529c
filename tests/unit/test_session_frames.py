"""The messages of sessions, byte by byte."""

from __future__ import annotations

from collections import deque

import pytest

from sandfleet.model.errors import BadRequest
from sandfleet.wire import session_frames as frames
from sandfleet.wire.session_request import (
    offset_from,
    scrollback_from,
    session_request,
    signal_of,
    size_of,
    terminal_request,
)


def test_frames_are_exactly_those_of_the_contract() -> None:
    assert frames.output(1, b"out") == b"\x01out"
    assert frames.output(2, b"err") == b"\x02err"
    assert frames.exited(3) == b"\x03\x00\x00\x00\x03"
    assert frames.exited(-1) == b"\x03\xff\xff\xff\xff"
    assert frames.replayed() == b"\x04"
    assert frames.replayed(258) == b"\x04\x00\x00\x00\x00\x00\x00\x01\x02"


def test_what_a_client_gives() -> None:
    assert frames.stdin_of(b"\x00abc") == frames.Stdin(b"abc")
    assert frames.stdin_of(b"\x05") == frames.Stdin(b"", is_last=True)
    for ignored in (b"", b"\x00", b"\x06\x00\x50", b"\x01x", b"\xffx"):
        assert frames.stdin_of(ignored) is None


def test_stdin_that_waits_is_given_at_once_as_far_as_it_has_no_gap() -> None:
    first, second = frames.Stdin(b"ab", position=5), frames.Stdin(b"c", position=7)
    late, last = frames.Stdin(b"d", position=9), frames.Stdin(b"", is_last=True, position=10)
    waiting = deque([first, second, late, last, frames.Stdin(b"ignored", position=10)])
    assert frames.joined(waiting, bytes_max=9) == frames.Stdin(b"abc", position=5)
    assert frames.joined(waiting, bytes_max=9) == frames.Stdin(b"d", is_last=True, position=9)
    assert len(waiting) == 1
    plain = deque([frames.Stdin(b"ab"), frames.Stdin(b"cd"), frames.Stdin(b"ef")])
    assert frames.joined(plain, bytes_max=5) == frames.Stdin(b"abcd")
    assert frames.joined(plain, bytes_max=1) == frames.Stdin(b"ef")


def test_placed_stdin_comes_back_as_it_was() -> None:
    frame = frames.placed_stdin(2**40, b"abc", end=True)
    assert frames.stdin_of(frame) == frames.Stdin(b"abc", is_last=True, position=2**40)
    assert frames.offset_of(frames.stdin_taken(7)) == 7
    assert frames.offset_of(frames.acknowledged(2**63)) == 2**63
    for short in (frame[:5], b"\x10"):
        with pytest.raises(BadRequest):
            frames.stdin_of(short)
    with pytest.raises(BadRequest):
        frames.offset_of(b"\x11\x00")


def test_the_end_of_the_replay_stands_between_the_right_two_bytes() -> None:
    replay = frames.Replay(10, 14)
    assert replay.boundary() == []
    assert replay.frames(1, b"ab") == [b"\x01ab"]
    assert replay.frames(2, b"cdEF") == [b"\x02cd", frames.replayed(14), b"\x02EF"]
    assert replay.frames(1, b"G") == [b"\x01G"]
    assert replay.position == 17


def test_nothing_to_replay_is_said_at_once_and_only_once() -> None:
    replay = frames.Replay(5, 5)
    assert replay.boundary() == [frames.replayed(5)]
    assert replay.boundary() == []
    assert replay.frames(1, b"x") == [b"\x01x"]


def test_no_message_is_longer_than_a_client_takes() -> None:
    replay = frames.Replay(0, 100)
    made = replay.frames(1, bytes(200_000))
    assert max(len(frame) for frame in made) == frames.FRAME_BYTES_MAX
    assert sum(len(frame) - 1 for frame in made if frame[0] == frames.STDOUT) == 200_000


def test_a_session_is_never_wrapped_in_a_shell() -> None:
    request = session_request({"CMD": "ls | wc", "cwd": "", "timeout": 0})
    assert (request.argv, request.cwd, request.timeout_s, request.linger_s) == (
        ("ls | wc",),
        None,
        None,
        None,
    )
    request = session_request({"cmd": "a", "args": ["b"], "timeout": 5, "maxRunAfterDisconnect": 7})
    assert (request.argv, request.timeout_s, request.linger_s) == (("a", "b"), 5, 7)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"cmd": ""},
        {"cmd": "a", "timeout": -1},
        {"cmd": "a", "timeout": 86401},
        {"cmd": "a", "maxRunAfterDisconnect": -1},
        {"cmd": "a", "args": "b"},
    ],
)
def test_a_wrong_session_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        session_request(fields)


def test_signals_sizes_and_shells_have_defaults_and_bounds() -> None:
    assert (signal_of({}), signal_of({"signal": 64})) == (9, 64)
    assert (size_of({}), size_of({"cols": 1, "rows": 65535})) == ((80, 24), (1, 65535))
    assert terminal_request({}).argv == ("/bin/bash",)
    assert terminal_request({"shell": "top", "args": ["-b"]}).argv == ("top", "-b")
    for wrong in ({"signal": 0}, {"signal": 65}, {"signal": -9}):
        with pytest.raises(BadRequest):
            signal_of(wrong)
    for size in ({"cols": -1}, {"rows": 65536}):
        with pytest.raises(BadRequest):
            size_of(size)


def test_offsets_of_a_query() -> None:
    assert (offset_from(None), offset_from("0"), offset_from("12")) == (None, 0, 12)
    assert (scrollback_from(None), scrollback_from("9" * 15)) == (0, 1024 * 1024)
    for wrong in ("", "-1", "x", "1.5", "9" * 19, "\u0661"):
        with pytest.raises(BadRequest):
            offset_from(wrong)
