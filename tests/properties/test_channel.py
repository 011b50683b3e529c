"""Host and agent channels against each other, and each against a peer that lies."""

from __future__ import annotations

import itertools
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sandfleet.wire.channel import (
    STREAMS_MAX,
    WINDOW_BYTES,
    AgentChannel,
    HostChannel,
    ProtocolBroken,
)
from sandfleet.wire.channel_events import (
    DataReceived,
    Event,
    SessionLost,
    SessionStarted,
    StreamEnded,
    StreamOpened,
    StreamReset,
)
from sandfleet.wire.frames import FRAME_BYTES_MAX, FrameType, encode

NONCE = b"n" * 16


def greeted(nonce: bytes = NONCE) -> tuple[HostChannel, AgentChannel]:
    host, agent = HostChannel(nonce), AgentChannel()
    list(agent.receive(b"".join(host.take_output())))
    list(host.receive(b"".join(agent.take_output())))
    assert host.established
    return host, agent


class ChannelPair(RuleBasedStateMachine):
    """Everything sent arrives once and in order; no window is ever exceeded; ends are seen by both."""

    def __init__(self) -> None:
        super().__init__()
        self.host, self.agent = greeted()
        self.up: dict[int, bytearray] = defaultdict(bytearray)
        self.down: dict[int, bytearray] = defaultdict(bytearray)
        self.sent_up: dict[int, bytearray] = defaultdict(bytearray)
        self.sent_down: dict[int, bytearray] = defaultdict(bytearray)
        self.unread_up: dict[int, int] = defaultdict(int)
        self.unread_down: dict[int, int] = defaultdict(int)
        self.results: dict[int, object] = {}

    def open_streams(self) -> list[int]:
        return [stream for stream in self.sent_up if self.agent.is_open(stream) and self.host.is_open(stream)]

    @rule()
    @precondition(lambda self: len(self.sent_up) < 20)
    def open(self) -> None:
        stream = self.host.open({"op": "x"})
        self.sent_up[stream] = bytearray()
        self.carry()

    @rule(data=st.data(), size=st.integers(1, 70_000))
    @precondition(lambda self: self.open_streams())
    def send_up(self, data: st.DataObject, size: int) -> None:
        stream = data.draw(st.sampled_from(self.open_streams()))
        piece = bytes([size % 251]) * min(size, self.host.credit(stream))
        if piece:
            self.host.send_data(stream, piece)
            self.sent_up[stream] += piece
        self.carry()

    @rule(data=st.data(), size=st.integers(1, 70_000))
    @precondition(lambda self: self.open_streams())
    def send_down(self, data: st.DataObject, size: int) -> None:
        stream = data.draw(st.sampled_from(self.open_streams()))
        piece = bytes([size % 241]) * min(size, self.agent.credit(stream))
        if piece:
            self.agent.send_data(stream, piece)
            self.sent_down[stream] += piece
        self.carry()

    @rule(data=st.data())
    @precondition(lambda self: self.open_streams())
    def consume(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(self.open_streams()))
        self.agent.consumed(stream, self.unread_up.pop(stream, 0))
        self.host.consumed(stream, self.unread_down.pop(stream, 0))
        self.carry()

    @rule(data=st.data())
    @precondition(lambda self: self.open_streams())
    def finish(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(self.open_streams()))
        self.agent.finish(stream, {"stream": stream})
        self.carry()
        assert self.results[stream] == {"stream": stream}
        assert self.down[stream] == self.sent_down[stream]

    @rule(data=st.data())
    @precondition(lambda self: self.open_streams())
    def cancel(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(self.open_streams()))
        self.host.reset(stream, code="cancelled", message="")
        self.carry()
        assert not self.agent.is_open(stream)

    def carry(self) -> None:
        """Carry all bytes both ways until nothing moves."""
        while self.host.output_bytes or self.agent.output_bytes:
            for event in self.agent.receive(b"".join(self.host.take_output())):
                self.at_agent(event)
            for event in self.host.receive(b"".join(self.agent.take_output())):
                self.at_host(event)

    def at_agent(self, event: Event) -> None:
        assert not isinstance(event, (SessionLost, SessionStarted))
        if isinstance(event, DataReceived):
            self.up[event.stream] += event.data
            self.unread_up[event.stream] += len(event.data)

    def at_host(self, event: Event) -> None:
        if isinstance(event, DataReceived):
            self.down[event.stream] += event.data
            self.unread_down[event.stream] += len(event.data)
        elif isinstance(event, StreamEnded):
            self.results[event.stream] = event.result

    @invariant()
    def bytes_arrive_once_and_in_order(self) -> None:
        for stream in self.open_streams():
            assert self.up[stream] == self.sent_up[stream]
            assert self.down[stream] == self.sent_down[stream]

    @invariant()
    def no_more_than_a_window_is_unread(self) -> None:
        for unread in (*self.unread_up.values(), *self.unread_down.values()):
            assert unread <= WINDOW_BYTES


TestChannelPair = ChannelPair.TestCase
TestChannelPair.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@given(st.binary(max_size=400), st.binary(max_size=400))
def test_the_host_believes_nothing_before_its_own_nonce(stale: bytes, tail: bytes) -> None:
    host = HostChannel(NONCE)
    forged = encode(FrameType.HELLO_ACK, payload=b"m" * 16 + b"\0\1")
    assert list(host.receive(stale + forged + encode(FrameType.END, stream=1, payload=b"{}"))) == []
    assert not host.established
    # The head of a long frame just before the answer must not swallow it.
    answer = AgentChannel()
    list(answer.receive(b"".join(host.take_output())))
    half = encode(FrameType.DATA, stream=9, payload=tail + bytes(1000))[:40]
    assert list(host.receive(half + b"".join(answer.take_output()))) == [SessionStarted()]


@given(st.lists(st.integers(0, 10**6), max_size=10), st.integers(0, 10**6))
def test_a_new_host_is_heard_wherever_the_last_one_was_cut(cuts: list[int], cut: int) -> None:
    host, agent = greeted()
    stream = host.open({"op": "write"})
    list(agent.receive(b"".join(host.take_output())))
    host.send_data(stream, b"z" * 5000)
    late = b"".join(host.take_output())
    successor = HostChannel(b"s" * 16)
    data = late[: cut % len(late)] + b"".join(successor.take_output())
    events: list[Event] = []
    edges = [0, *sorted(point % (len(data) + 1) for point in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        events += agent.receive(data[start:end])
    assert events[-1] == SessionStarted()
    assert SessionLost() in events
    assert not any(isinstance(event, DataReceived) for event in events)
    assert agent.open_streams == 0
    assert list(successor.receive(b"".join(agent.take_output()))) == [SessionStarted()]


FRAME_BYTES = st.builds(
    lambda kind, stream, payload: encode(kind, stream=stream, payload=payload),
    st.sampled_from(FrameType),
    st.integers(0, 4),
    st.one_of(
        st.binary(max_size=60),
        st.sampled_from(
            [b"{}", b"[]", b'{"code":"x","message":"y"}', b"[" * 60_000, b"\xff" * 4, b"1" * 60_000]
        ),
    ),
)


@given(st.lists(st.one_of(FRAME_BYTES, st.binary(max_size=30)), max_size=12))
@settings(deadline=None)
def test_whatever_a_guest_sends_breaks_at_most_its_own_session(pieces: list[bytes]) -> None:
    host, _ = greeted()
    for _ in range(3):
        host.open({"op": "x"})
    host.take_output()
    try:
        for piece in pieces:
            events = list(host.receive(piece))
            assert sum(len(event.data) for event in events if isinstance(event, DataReceived)) <= len(piece)
    except ProtocolBroken:
        return
    # Nothing that it sent makes the host write: it cannot fill the host's buffers.
    assert host.output_bytes == 0


@given(st.lists(st.one_of(FRAME_BYTES, st.binary(max_size=30)), max_size=12))
@settings(deadline=None)
def test_whatever_arrives_the_agent_hears_the_next_hello(pieces: list[bytes]) -> None:
    _, agent = greeted()
    for piece in pieces:
        list(agent.receive(piece))
    host = HostChannel(b"o" * 16)
    list(agent.receive(b"".join(host.take_output())))
    assert list(host.receive(b"".join(agent.take_output())))[-1] == SessionStarted()


def test_more_data_than_credit_breaks_the_session() -> None:
    host, _ = greeted()
    stream = host.open({"op": "x"})
    frame = encode(FrameType.DATA, stream=stream, payload=b"x" * 65536)
    for _ in range(WINDOW_BYTES // 65536):
        list(host.receive(frame))
    with pytest.raises(ProtocolBroken, match="credit of 0"):
        list(host.receive(frame))


def test_credit_that_was_never_taken_breaks_the_session() -> None:
    host, _ = greeted()
    stream = host.open({"op": "x"})
    with pytest.raises(ProtocolBroken, match="more credit"):
        list(host.receive(encode(FrameType.WINDOW, stream=stream, payload=b"\xff\xff\xff\xff")))


def test_a_reused_stream_number_ends_the_agents_session() -> None:
    host, agent = greeted()
    host.open({"op": "x"})
    opened = b"".join(host.take_output())
    assert isinstance(next(iter(agent.receive(opened))), StreamOpened)
    assert list(agent.receive(opened)) == [SessionLost()]
    assert agent.open_streams == 0


def test_streams_beyond_the_bound_are_refused_one_by_one() -> None:
    host, agent = greeted()
    for number in range(1, STREAMS_MAX + 2):
        list(agent.receive(encode(FrameType.OPEN, stream=number, payload=b'{"op":"x"}')))
    assert agent.open_streams == STREAMS_MAX
    for _ in range(STREAMS_MAX):
        host.open({"op": "x"})
    with pytest.raises(ValueError, match="too many"):
        host.open({"op": "x"})


def test_a_request_that_is_no_object_is_answered_on_its_own_stream() -> None:
    _, agent = greeted()
    deep = b'{"a":' * 10_000 + b"1" + b"}" * 10_000
    for number, payload in enumerate((b"[]", b"\xff", deep), start=1):
        assert list(agent.receive(encode(FrameType.OPEN, stream=number, payload=payload))) == []
    host = HostChannel(NONCE)
    list(host.receive(encode(FrameType.HELLO_ACK, payload=NONCE + b"\0\1")))
    for _ in range(3):
        host.open({"op": "x"})
    events = list(host.receive(b"".join(agent.take_output())))
    assert [type(event) for event in events] == [StreamReset] * 3


def test_an_old_session_is_over_when_a_host_greets() -> None:
    host, agent = greeted()
    stream = host.open({"op": "x"})
    list(agent.receive(b"".join(host.take_output())))
    agent.send_data(stream, b"never sent")
    successor = HostChannel(b"t" * 16)
    events = list(agent.receive(b"".join(successor.take_output())))
    assert events == [SessionLost(), SessionStarted()]
    assert b"never sent" not in b"".join(agent.take_output())


def test_the_reader_holds_no_more_than_a_frame() -> None:
    agent = AgentChannel()
    head = encode(FrameType.DATA, stream=1, payload=b"q" * 65536)[:-1]
    for _ in range(50):
        list(agent.receive(head))
    assert len(agent._reader._buffer) <= FRAME_BYTES_MAX
