"""The session between host and guest agent: streams with credit over frames, without I/O.

Rule 1: the host begins. It sends padding, then HELLO with a nonce; it believes
        nothing until HELLO_ACK with that nonce. HELLO ends the session before it.
Rule 2: only the host opens streams, with rising numbers. END of the agent and
        RESET of either end a stream; END of the host ends its input only.
        Frames of streams that are not open are late, and dropped.
Rule 3: DATA needs credit. Each side gives `WINDOW_BYTES` per stream and direction at
        the start and more when its consumer has taken bytes; so what a side must
        hold is bounded, and a slow consumer holds up its own stream only.
Rule 4: a peer that breaks a rule breaks its own session. The host raises
        `ProtocolBroken`; the agent goes deaf until the next HELLO.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sandfleet.wire.agent_messages import (
    INLINE_JSON_BYTES_MAX,
    PROTOCOL_VERSION,
    Fields,
    MalformedMessage,
    decode_json,
    encode_json,
)
from sandfleet.wire.channel_events import (
    CreditGiven,
    DataReceived,
    Event,
    Ponged,
    SessionLost,
    SessionStarted,
    StreamEnded,
    StreamOpened,
    StreamReset,
)
from sandfleet.wire.frames import PADDING, PAYLOAD_BYTES_MAX, Frame, FrameReader, FrameType, encode

WINDOW_BYTES = 256 * 1024
STREAMS_MAX = 1024
NONCE_BYTES = 16
ERROR_TEXT_MAX = 2000

_HELLO = struct.Struct(f"!{NONCE_BYTES}sH")
_CREDIT = struct.Struct("!I")
_HOST_ONLY = frozenset({FrameType.HELLO, FrameType.HELLO_ACK, FrameType.OPEN, FrameType.PING})
_AGENT_ONLY = frozenset({FrameType.HELLO_ACK, FrameType.PONG})
"""What only one side sends after the greeting. The host never answers a ping: a guest
that pings and does not read would fill the host's buffers."""


class ProtocolBroken(Exception):
    """The peer broke the rules of the channel; the session is over."""


@dataclass(slots=True)
class _Flow:
    """Credit of one open stream, both ways."""

    send: int = WINDOW_BYTES
    receive: int = WINDOW_BYTES
    owed: int = 0
    input_ended: bool = False


class _Channel:
    """What both sides have in common."""

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._flows: dict[int, _Flow] = {}
        self._output: deque[bytes] = deque()
        self.output_bytes = 0
        """How many bytes wait to be taken."""

    def take_output(self) -> list[bytes]:
        """Return what must be written to the peer, and forget it."""
        pieces = list(self._output)
        self._output.clear()
        self.output_bytes = 0
        return pieces

    def is_open(self, stream: int) -> bool:
        """Whether the stream is open."""
        return stream in self._flows

    @property
    def open_streams(self) -> int:
        """How many streams are open."""
        return len(self._flows)

    def credit(self, stream: int) -> int:
        """Return how many bytes may be sent in one DATA frame now (0: wait for `CreditGiven`)."""
        flow = self._flows.get(stream)
        return 0 if flow is None else min(flow.send, PAYLOAD_BYTES_MAX)

    def send_data(self, stream: int, data: bytes) -> None:
        """Send bytes, not more than `credit`."""
        if not 0 < len(data) <= self.credit(stream):
            raise ValueError(f"{len(data)} bytes with a credit of {self.credit(stream)}")
        self._flows[stream].send -= len(data)
        self._send(FrameType.DATA, stream=stream, payload=data)

    def consumed(self, stream: int, count: int) -> None:
        """Give credit back for bytes that the consumer has taken."""
        flow = self._flows.get(stream)
        if flow is None or flow.input_ended:
            return
        flow.owed += count
        if flow.owed >= WINDOW_BYTES // 4:
            flow.receive += flow.owed
            self._send(FrameType.WINDOW, stream=stream, payload=_CREDIT.pack(flow.owed))
            flow.owed = 0

    def reset(
        self, stream: int, *, code: str, message: str, details: Mapping[str, Any] | None = None
    ) -> None:
        """Give the stream up; nothing happens if it is not open."""
        if self._flows.pop(stream, None) is None:
            return
        answer: dict[str, Any] = {"code": code, "message": message[:ERROR_TEXT_MAX]}
        body = encode_json({**answer, "details": dict(details or {})})
        if len(body) > PAYLOAD_BYTES_MAX:
            body = encode_json(answer)
        self._send(FrameType.RESET, stream=stream, payload=body)

    def _send(self, kind: FrameType, *, stream: int = 0, payload: bytes = b"") -> None:
        self._emit(encode(kind, stream=stream, payload=payload))

    def _emit(self, piece: bytes) -> None:
        self._output.append(piece)
        self.output_bytes += len(piece)

    def _on_stream_frame(self, frame: Frame) -> Iterator[Event]:
        """Handle DATA, WINDOW and RESET."""
        if (flow := self._flows.get(frame.stream)) is None:
            return
        elif frame.kind is FrameType.DATA:
            yield self._on_data(flow, frame)
        elif frame.kind is FrameType.WINDOW:
            yield self._on_window(flow, frame)
        elif frame.kind is FrameType.RESET:
            del self._flows[frame.stream]
            yield _reset_of(frame)
        else:
            raise ProtocolBroken(f"unexpected {frame.kind.name}")

    def _on_data(self, flow: _Flow, frame: Frame) -> DataReceived:
        if flow.input_ended or not 0 < len(frame.payload) <= flow.receive:
            raise ProtocolBroken(f"{len(frame.payload)} bytes of DATA with a credit of {flow.receive}")
        flow.receive -= len(frame.payload)
        return DataReceived(frame.stream, frame.payload)

    def _on_window(self, flow: _Flow, frame: Frame) -> CreditGiven:
        if len(frame.payload) != _CREDIT.size:
            raise ProtocolBroken("a WINDOW without a number")
        flow.send += _CREDIT.unpack(frame.payload)[0]
        if flow.send > WINDOW_BYTES:
            raise ProtocolBroken("more credit than was ever taken")
        return CreditGiven(frame.stream)


class HostChannel(_Channel):
    """The host's side of one connection. The guest's bytes are not trusted."""

    def __init__(self, nonce: bytes) -> None:
        super().__init__()
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"a nonce has {NONCE_BYTES} bytes")
        self._hello = _HELLO.pack(nonce, PROTOCOL_VERSION)
        self._awaited: bytes | None = encode(FrameType.HELLO_ACK, payload=self._hello)
        self._early = bytearray()
        self._opened = 0
        self.greet()

    @property
    def established(self) -> bool:
        """Whether the agent has answered our HELLO."""
        return self._awaited is None

    def greet(self) -> None:
        """Say HELLO, again as long as there is no answer.

        A guest that is told late that its port was opened takes the first for the end of the last host.
        """
        if self._awaited is not None:
            self._emit(PADDING)
            self._send(FrameType.HELLO, payload=self._hello)

    def receive(self, data: bytes) -> Iterator[Event]:
        """Yield what the guest's bytes mean. Iterate to the end before the next call."""
        if self._awaited is not None:
            rest = self._find_answer(self._awaited, data)
            if rest is None:
                return
            self._awaited = None
            yield SessionStarted()
            data = rest
        self._reader.feed(data)
        while (frame := self._reader.next_frame()) is not None:
            self._check_sound()
            yield from self._on_frame(frame)
        self._check_sound()

    def open(self, request: Mapping[str, Any]) -> int:
        """Begin an operation and return its stream. Longer requests go as a body (`agent_messages`)."""
        if not self.established or len(self._flows) >= STREAMS_MAX:
            raise ValueError("no session, or too many streams")
        payload = encode_json(request)
        if len(payload) > INLINE_JSON_BYTES_MAX:
            raise ValueError(f"a request of {len(payload)} bytes does not fit inline")
        self._opened += 1
        self._flows[self._opened] = _Flow()
        self._send(FrameType.OPEN, stream=self._opened, payload=payload)
        return self._opened

    def end_input(self, stream: int) -> None:
        """Say that no more DATA of ours follows."""
        if stream in self._flows:
            self._send(FrameType.END, stream=stream)

    def ping(self, token: bytes) -> None:
        """Ask for a `Ponged` with `token`."""
        self._send(FrameType.PING, payload=token[:NONCE_BYTES])

    def _find_answer(self, answer: bytes, data: bytes) -> bytes | None:
        """Look for our HELLO_ACK as plain bytes: stale ones before it cannot swallow it."""
        self._early += data
        at = self._early.find(answer)
        if at < 0:
            del self._early[: max(0, len(self._early) - len(answer) + 1)]
            return None
        rest = bytes(self._early[at + len(answer) :])
        self._early.clear()
        return rest

    def _on_frame(self, frame: Frame) -> Iterator[Event]:
        if frame.kind is FrameType.END:
            if self._flows.pop(frame.stream, None) is not None:
                yield StreamEnded(frame.stream, _object_of(frame))
        elif frame.kind is FrameType.PONG:
            yield Ponged(frame.payload[:NONCE_BYTES])
        elif frame.kind is FrameType.HELLO_ACK and frame.payload == self._hello:
            return  # the answer to a repeated HELLO
        elif frame.kind in _HOST_ONLY:
            raise ProtocolBroken(f"unexpected {frame.kind.name}")
        else:
            yield from self._on_stream_frame(frame)

    def _check_sound(self) -> None:
        if self._reader.skipped_bytes:
            raise ProtocolBroken("bytes that belong to no frame")


class AgentChannel(_Channel):
    """The agent's side, over all connections that ever come."""

    def __init__(self) -> None:
        super().__init__()
        self._listening = False
        self._newest_stream = 0
        self._skipped_seen = 0

    def receive(self, data: bytes) -> Iterator[Event]:
        """Yield what the host's bytes mean. Iterate to the end before the next call."""
        self._reader.feed(data)
        while (frame := self._reader.next_frame()) is not None:
            if self._reader.skipped_bytes != self._skipped_seen:
                yield from self._notice_cut()
            if frame.kind is FrameType.HELLO:
                yield from self._on_hello(frame)
            elif self._listening:
                try:
                    yield from self._on_frame(frame)
                except ProtocolBroken:
                    yield from self.lose_session()
        yield from self._notice_cut()

    def finish(self, stream: int, result: Mapping[str, Any]) -> None:
        """End the stream with a result that fits in one frame."""
        self.finish_encoded(stream, encode_json(result))

    def finish_encoded(self, stream: int, result: bytes) -> None:
        """End the stream with a result that is JSON already."""
        if self._flows.pop(stream, None) is not None:
            self._send(FrameType.END, stream=stream, payload=result)

    def lose_session(self) -> Iterator[Event]:
        """Drop all streams and what waits to be sent; be deaf until the next HELLO."""
        if self._listening:
            self._listening = False
            self._flows.clear()
            self.take_output()
            yield SessionLost()

    def _notice_cut(self) -> Iterator[Event]:
        if self._reader.skipped_bytes != self._skipped_seen:
            self._skipped_seen = self._reader.skipped_bytes
            yield from self.lose_session()

    def _on_hello(self, frame: Frame) -> Iterator[Event]:
        if len(frame.payload) != _HELLO.size:
            return
        nonce, version = _HELLO.unpack(frame.payload)
        if version != PROTOCOL_VERSION:
            return
        yield from self.lose_session()
        self._listening = True
        self._newest_stream = 0
        self._send(FrameType.HELLO_ACK, payload=_HELLO.pack(nonce, PROTOCOL_VERSION))
        yield SessionStarted()

    def _on_frame(self, frame: Frame) -> Iterator[Event]:
        if frame.kind is FrameType.OPEN:
            yield from self._on_open(frame)
        elif frame.kind is FrameType.END:
            flow = self._flows.get(frame.stream)
            if flow is not None and not flow.input_ended:
                flow.input_ended = True
                yield StreamEnded(frame.stream, {})
        elif frame.kind is FrameType.PING:
            self._send(FrameType.PONG, payload=frame.payload[:NONCE_BYTES])
        elif frame.kind in _AGENT_ONLY:
            raise ProtocolBroken(f"unexpected {frame.kind.name}")
        else:
            yield from self._on_stream_frame(frame)

    def _on_open(self, frame: Frame) -> Iterator[Event]:
        if frame.stream <= self._newest_stream:
            raise ProtocolBroken(f"stream {frame.stream} opened again")
        self._newest_stream = frame.stream
        self._flows[frame.stream] = _Flow()
        if len(self._flows) > STREAMS_MAX:
            self.reset(frame.stream, code="busy", message="too many operations at once")
            return
        try:
            request = decode_json(frame.payload)
        except MalformedMessage as error:
            self.reset(frame.stream, code="bad_request", message=str(error))
            return
        yield StreamOpened(frame.stream, request)


def _object_of(frame: Frame) -> dict[str, Any]:
    try:
        return decode_json(frame.payload)
    except MalformedMessage as error:
        raise ProtocolBroken(str(error)) from error


def _reset_of(frame: Frame) -> StreamReset:
    try:
        fields = Fields(decode_json(frame.payload))
        details = fields.values.get("details")
        return StreamReset(
            frame.stream,
            code=fields.text("code")[:64],
            message=fields.text("message")[:ERROR_TEXT_MAX],
            details=details if isinstance(details, dict) else {},
        )
    except MalformedMessage as error:
        raise ProtocolBroken(str(error)) from error
