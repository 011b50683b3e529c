"""One operation's stream as the loop's side sees it, and the session that carries all of them.

Sending is by pull: the session asks ready streams in turn for bytes while the
transport has room, so a bulk transfer leaves room for everybody and nothing
piles up here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from sandfleet.agent.console import say_exception
from sandfleet.agent.failures import failure_of
from sandfleet.agent.transport import Transport
from sandfleet.wire.agent_messages import (
    INLINE_JSON_BYTES_MAX,
    REQUEST_BODY_BYTES_MAX,
    RESULT_BODY_BYTES_MAX,
    Code,
    Fields,
    MalformedMessage,
    OperationFailed,
    decode_json,
    encode_json,
)
from sandfleet.wire.channel import AgentChannel
from sandfleet.wire.channel_events import (
    CreditGiven,
    DataReceived,
    Event,
    SessionLost,
    StreamEnded,
    StreamOpened,
    StreamReset,
)

WAITING_BYTES_MAX = 128 * 1024
"""What may wait to be written: the most that stands before an answer to a ping."""

Produce = Callable[[int], bytes | None]
Start = Callable[["Stream", Fields], None]


def _ignore() -> None:
    pass


class Stream:
    """One operation in progress. Operations set the callbacks they need when they start."""

    def __init__(self, session: Session, number: int) -> None:
        self._session = session
        self.number = number
        self.on_data: Callable[[bytes], None] = self._refuse_data
        self.on_input_end: Callable[[], None] = _ignore
        self.on_credit: Callable[[], None] = _ignore
        self.on_abort: Callable[[], None] = _ignore
        self.is_lost = False
        """In `on_abort`: the session broke, so the host may come back for the rest."""
        self.produce: Produce | None = None
        """Asked for at most so many bytes of DATA; None when there are none now (then `wake` later)."""

    def consumed(self, count: int) -> None:
        """Let the host send `count` bytes more."""
        if self._session.carries(self):
            self._session.channel.consumed(self.number, count)
            self._session.flush_soon()

    def wake(self) -> None:
        """Say that `produce` may have something."""
        self._session.make_ready(self)

    def finish(self, result: Mapping[str, Any]) -> None:
        """End with a result of any length."""
        if not self._session.carries(self):
            return
        encoded = encode_json(result)
        if len(encoded) > RESULT_BODY_BYTES_MAX:
            self.fail(OperationFailed(Code.INTERNAL, "the answer is too long"))
        elif len(encoded) <= INLINE_JSON_BYTES_MAX:
            self._session.finish(self, encoded)
        else:
            self._finish_with_body(memoryview(encoded))

    def fail(self, failure: OperationFailed) -> None:
        """End with an error."""
        if not self._session.carries(self):
            return
        self._session.channel.reset(
            self.number, code=failure.code, message=failure.message, details=failure.details
        )
        self._session.forget(self)

    def _finish_with_body(self, rest: memoryview) -> None:
        def produce(count: int) -> bytes | None:
            nonlocal rest
            piece, rest = bytes(rest[:count]), rest[count:]
            if not piece:
                self._session.finish(self, b'{"body":true}')
                return None
            return piece

        self.produce = produce
        self.wake()

    def _refuse_data(self, _data: bytes) -> None:
        self.fail(OperationFailed(Code.BAD_REQUEST, "this operation takes no data"))


class Session:
    """All streams of the one host that is connected."""

    def __init__(self, transport: Transport, start: Start) -> None:
        self.channel = AgentChannel()
        self._transport = transport
        self._start = start
        self._streams: dict[int, Stream] = {}
        self._ready: deque[Stream] = deque()
        self._ready_numbers: set[int] = set()
        self._receiving = False

    def on_bytes(self, data: bytes) -> None:
        """Handle bytes of the host."""
        self._receiving = True  # answers go out together, when all of the input is handled
        try:
            for event in self.channel.receive(data):
                self._on_event(event)
        finally:
            self._receiving = False
        self.pump()

    def on_gone(self) -> None:
        """Handle that the host went away."""
        for event in self.channel.lose_session():
            self._on_event(event)
        self._transport.drop_waiting()

    def carries(self, stream: Stream) -> bool:
        """Whether the stream is open in this session; numbers begin anew with each."""
        return self._streams.get(stream.number) is stream

    def make_ready(self, stream: Stream) -> None:
        """Put the stream in line for sending."""
        if self.carries(stream):
            if stream.number not in self._ready_numbers:
                self._ready_numbers.add(stream.number)
                self._ready.append(stream)
            self.flush_soon()

    def finish(self, stream: Stream, result: bytes) -> None:
        """End the stream with a result, encoded, that fits in one frame."""
        self.channel.finish_encoded(stream.number, result)
        self.forget(stream)

    def forget(self, stream: Stream) -> None:
        """Drop what is known of an ended stream."""
        if self.carries(stream):
            del self._streams[stream.number]
        self.flush_soon()

    def flush_soon(self) -> None:
        """Send what waits, unless the end of the present input will."""
        if not self._receiving:
            self.pump()

    def pump(self) -> None:
        """Ask ready streams in turn and write, while the transport takes it."""
        if self._receiving:
            return
        self._receiving = True  # a producer that ends its stream must not come back in here
        try:
            while True:
                self._collect()
                self._transport.write(self.channel.take_output())
                if not self._ready or self._transport.waiting_bytes >= WAITING_BYTES_MAX:
                    return
        finally:
            self._receiving = False

    def _collect(self) -> None:
        room = WAITING_BYTES_MAX - self._transport.waiting_bytes
        while self._ready and self.channel.output_bytes < room:
            stream = self._ready.popleft()
            self._ready_numbers.discard(stream.number)
            credit = self.channel.credit(stream.number)
            if credit == 0 or stream.produce is None:
                continue
            piece = stream.produce(credit)
            if piece:
                self.channel.send_data(stream.number, piece)
                self.make_ready(stream)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, StreamOpened):
            self._open(event)
        elif isinstance(event, SessionLost):
            self._abort_all()
        elif isinstance(event, (DataReceived, StreamEnded, StreamReset, CreditGiven)):
            stream = self._streams.get(event.stream)
            if stream is not None:
                self._tell(stream, event)

    def _tell(self, stream: Stream, event: Event) -> None:
        if isinstance(event, DataReceived):
            stream.on_data(event.data)
        elif isinstance(event, StreamEnded):
            stream.on_input_end()
        elif isinstance(event, CreditGiven):
            stream.on_credit()
            self.make_ready(stream)
        elif isinstance(event, StreamReset):
            self.forget(stream)
            stream.on_abort()

    def _abort_all(self) -> None:
        streams = list(self._streams.values())
        self._streams.clear()
        self._ready.clear()
        self._ready_numbers.clear()
        self._transport.drop_waiting()
        for stream in streams:
            stream.is_lost = True
            stream.on_abort()

    def _open(self, event: StreamOpened) -> None:
        stream = self._streams[event.stream] = Stream(self, event.stream)
        if event.request.get("body") is True:
            self._collect_body(stream, event.request)
        else:
            self._begin(stream, event.request)

    def _collect_body(self, stream: Stream, request: dict[str, Any]) -> None:
        body = bytearray()

        def on_data(data: bytes) -> None:
            body.extend(data)
            if len(body) > REQUEST_BODY_BYTES_MAX:
                stream.fail(OperationFailed(Code.BAD_REQUEST, "the request is too long"))
            else:
                stream.consumed(len(data))

        def on_end() -> None:
            try:
                merged = {**decode_json(bytes(body)), **request}
            except MalformedMessage as error:
                stream.fail(OperationFailed(Code.BAD_REQUEST, str(error)))
            else:
                self._begin(stream, merged)

        stream.on_data = on_data
        stream.on_input_end = on_end

    def _begin(self, stream: Stream, request: dict[str, Any]) -> None:
        try:
            self._start(stream, Fields(request))
        except Exception as error:  # noqa: BLE001 -- whatever a request brings about, the session goes on
            failure = failure_of(error)
            if failure.code == Code.INTERNAL:
                say_exception(f"operation {request.get('op')!r:.40}")
            stream.fail(failure)
