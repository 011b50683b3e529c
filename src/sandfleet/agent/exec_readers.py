"""Who reads the output of one exec, and how far each has come.

What a reader may not have received yet must stay in the log: it is the last
window of what was sent to him. When his session breaks, his place is held for
`HOLD_S`, so that he finds everything when he comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sandfleet.agent.loop import EventLoop, Timer
from sandfleet.agent.output_log import OutputLog
from sandfleet.agent.streams import Stream
from sandfleet.wire.agent_messages import (
    ACKNOWLEDGED_BYTES,
    OUTPUT_HEAD_BYTES,
    Code,
    OperationFailed,
    decode_acknowledged,
    encode_output,
)
from sandfleet.wire.channel import WINDOW_BYTES

AtEnd = Callable[[], dict[str, object] | None]
HOLD_S = 15.0
ATTACHED_HOLD_S = 60.0
"""A host that acknowledges carries clients, and may have to be started again before they come back."""
SLACK_BYTES = 4 * 1024 * 1024
"""What is acknowledged may still be on its way to the client; one that breaks off asks for it again."""
FIRST_HOLD_S = 2.0
READERS_MAX = 64


@dataclass(slots=True, eq=False)
class _Reader:
    stream: Stream
    start: int
    position: int
    slack_bytes: int
    is_claimed: bool = True
    """False for one that the host has opened in advance and may never read."""
    acknowledged: int | None = None
    """Up to where the output is known to have come, if the host says so."""

    @property
    def needed_from(self) -> int:
        if self.acknowledged is not None:
            return max(self.start, self.acknowledged - self.slack_bytes)
        return max(self.start, self.position - WINDOW_BYTES)

    @property
    def hold_s(self) -> float:
        return HOLD_S if self.acknowledged is None else ATTACHED_HOLD_S


@dataclass(slots=True, eq=False)
class _Hold:
    offset: int
    timer: Timer


class Readers:
    """The readers of one exec."""

    def __init__(self, loop: EventLoop, *, on_progress: Callable[[], None]) -> None:
        self._loop = loop
        self._on_progress = on_progress
        self.slack_bytes = SLACK_BYTES
        self._readers: list[_Reader] = []
        self._holds: list[_Hold] = []

    @property
    def any(self) -> bool:
        """Whether somebody reads or is expected back."""
        return bool(self._readers or self._holds)

    def needed_from(self) -> int | None:
        """Return the first offset that somebody still needs."""
        offsets = [reader.needed_from for reader in self._readers if reader.is_claimed]
        return min([*offsets, *(hold.offset for hold in self._holds)], default=None)

    def wake_all(self) -> None:
        """Tell readers that there is more, or that the end has come."""
        for reader in list(self._readers):
            reader.stream.wake()

    def drop_overtaken(self, log: OutputLog) -> None:
        """Tell those who never claimed their place that what they would read next is gone."""
        for reader in [reader for reader in self._readers if not reader.is_claimed]:
            if reader.position < log.oldest:
                self._readers.remove(reader)
                reader.stream.fail(_not_kept(log))

    def hold(self, offset: int, seconds: float) -> None:
        """Keep everything from `offset` for a while."""
        hold = _Hold(offset, self._loop.call_later(seconds, lambda: self._drop(hold)))
        self._holds.append(hold)

    def follow(self, stream: Stream, log: OutputLog, *, head: bytes, at_end: AtEnd) -> None:
        """Send `head` and then all output, for a host that may read it: it holds the process up by no more.

        It counts as a reader as soon as it has taken so much that credit comes back.
        """
        reader = self._serve(stream, log, offset=0, at_end=at_end)
        reader.is_claimed = False

        def claim() -> None:
            reader.is_claimed = True

        _begin_with(stream, head)
        stream.on_credit = claim
        stream.wake()

    def attach(
        self, stream: Stream, log: OutputLog, *, offset: int, at_end: AtEnd, head: bytes | None = None
    ) -> None:
        """Send the output from `offset` on; `at_end` returns the final status once there is one.

        With `head`, that comes first, and the host says by DATA up to where the output has come.
        """
        if not log.oldest <= offset <= log.end:
            raise _not_kept(log)
        if len(self._readers) >= READERS_MAX:
            raise OperationFailed(Code.BUSY, "too many readers of one exec")
        self._release_hold(offset)
        reader = self._serve(stream, log, offset=offset, at_end=at_end)
        if head is not None:
            _begin_with(stream, head)
            self._take_acknowledgements(stream, reader)
        stream.wake()

    def _take_acknowledgements(self, stream: Stream, reader: _Reader) -> None:
        reader.acknowledged = reader.start
        waiting = bytearray()

        def on_data(data: bytes) -> None:
            waiting.extend(data)
            while len(waiting) >= ACKNOWLEDGED_BYTES:
                offset = decode_acknowledged(bytes(waiting[:ACKNOWLEDGED_BYTES]))
                del waiting[:ACKNOWLEDGED_BYTES]
                reader.acknowledged = max(reader.acknowledged or 0, min(offset, reader.position))
            stream.consumed(len(data))
            self._on_progress()

        stream.on_data = on_data

    def _serve(self, stream: Stream, log: OutputLog, *, offset: int, at_end: AtEnd) -> _Reader:
        reader = _Reader(stream, offset, offset, self.slack_bytes)
        self._readers.append(reader)

        def produce(count: int) -> bytes | None:
            room = count - OUTPUT_HEAD_BYTES
            if room <= 0:
                return None
            piece = log.piece(reader.position, room)
            if piece is None:
                status = at_end()
                if status is not None:
                    self._detach(reader)
                    stream.finish(status)
                return None
            payload = encode_output(piece[0], reader.position, piece[1])
            reader.position += len(piece[1])
            self._on_progress()
            return payload

        def on_abort() -> None:
            if stream.is_lost and reader.is_claimed:
                self.hold(reader.needed_from, reader.hold_s)
            self._detach(reader)

        stream.produce = produce
        stream.on_abort = on_abort
        return reader

    def _detach(self, reader: _Reader) -> None:
        if reader in self._readers:
            self._readers.remove(reader)
        self._on_progress()

    def _release_hold(self, offset: int) -> None:
        """Take away the nearest hold that this reader may have left behind."""
        held = [hold for hold in self._holds if hold.offset <= offset]
        if held:
            hold = max(held, key=lambda hold: hold.offset)
            hold.timer.cancel()
            self._holds.remove(hold)

    def _drop(self, hold: _Hold) -> None:
        self._holds.remove(hold)
        self._on_progress()


def _begin_with(stream: Stream, head: bytes) -> None:
    produce_output = stream.produce

    def produce(_count: int) -> bytes:
        stream.produce = produce_output
        return head

    stream.produce = produce


def _not_kept(log: OutputLog) -> OperationFailed:
    details = {"oldest": log.oldest, "newest": log.end}
    return OperationFailed(Code.OFFSET_OUT_OF_RANGE, "that output is not kept", details=details)
