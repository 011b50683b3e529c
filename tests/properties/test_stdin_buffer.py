"""Stdin reaches the guest once and in order, whenever the way to it breaks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandfleet.controlplane.proxy.stdin_buffer import IN_FLIGHT_BYTES_MAX, StdinBuffer
from sandfleet.wire import session_frames as frames

STEPS = st.lists(
    st.one_of(
        st.binary(max_size=200_000).map(lambda data: ("put", data)),
        st.just(("send", b"")),
        st.just(("confirm", b"")),
        st.just(("break", b"")),
    ),
    max_size=40,
)


class Guest:
    """Takes each byte of a writer once, as the agent does."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.is_ended = False

    def take(self, frame: bytes) -> None:
        stdin = frames.stdin_of(frame)
        assert stdin is not None
        assert stdin.position is not None
        assert stdin.position <= len(self.data)
        self.data += stdin.data[len(self.data) - stdin.position :]
        self.is_ended = self.is_ended or stdin.is_last


@given(STEPS)
def test_every_byte_once_in_order_and_then_the_end(steps: list[tuple[str, bytes]]) -> None:
    buffer, guest, put = StdinBuffer(), Guest(), bytearray()
    for step, data in steps:
        if step == "put":
            buffer.put(data)
            put += data
        elif step == "send" and (frame := buffer.next_frame()) is not None:
            guest.take(frame)
        elif step == "confirm":
            buffer.taken(len(guest.data))
        elif step == "break":
            buffer.begin_again()
    buffer.end()
    buffer.put(b"ignored after the end")
    while buffer.is_pending:
        while (frame := buffer.next_frame()) is not None:
            guest.take(frame)
        buffer.taken(len(guest.data))
    assert guest.data == put
    assert guest.is_ended


@given(st.integers(min_value=0, max_value=3_000_000))
def test_what_is_under_way_is_bounded(size: int) -> None:
    buffer = StdinBuffer()
    buffer.put(bytes(size))
    sent = 0
    while (frame := buffer.next_frame()) is not None:
        sent += len(frame)
    assert sent <= IN_FLIGHT_BYTES_MAX + 2 * frames.FRAME_BYTES_MAX
    assert buffer.has_room is (size <= frames.STDIN_WAITING_BYTES_MAX)
