"""The messages of exec sessions: byte 0 is the type, the rest the payload.

Between client and server there are stdin, its end, the two output streams, the exit and
the end of the replay. The frames from `PLACED_STDIN` on only exist between the control
plane and a worker: they let either be replaced in mid-stream without losing or doubling
a byte. Offsets count payload bytes of both output streams.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass

from sandfleet.model.errors import BadRequest

STDIN, STDOUT, STDERR, EXIT, REPLAYED, STDIN_END, RESIZE = range(7)
PLACED_STDIN, STDIN_TAKEN, ACKNOWLEDGED = 0x10, 0x11, 0x12

FRAME_BYTES_MAX = 65536
"""Of a message from the server, its type included."""
MESSAGE_BYTES_MAX = 1024 * 1024
"""Of a message from a client."""
STDIN_WAITING_BYTES_MAX = 1024 * 1024
SCROLLBACK_BYTES_MAX = 1024 * 1024
OFFSET_HEADER = "X-Exec-Offset"
PROBLEM_HEADER = "X-Sandfleet-Problem"
"""The JSON of a refused upgrade: the body of one does not reach every WebSocket library's caller."""

NORMAL, GOING_AWAY, TRY_LATER = 1000, 1012, 1013
UNKNOWN, ENDED, NOT_KEPT = 4404, 4410, 4416

_EXIT = struct.Struct("!Bi")
_OFFSET = struct.Struct("!BQ")
_PLACED = struct.Struct("!BQB")


def output(stream: int, data: bytes) -> bytes:
    """Return the frame of a piece of output; stream 1 is stdout, 2 is stderr."""
    return bytes((stream,)) + data


def exited(code: int) -> bytes:
    """Return the frame that ends a session."""
    return _EXIT.pack(EXIT, code)


def replayed(offset: int | None = None) -> bytes:
    """Return the frame between replay and live output; `offset` for a client that counts."""
    return bytes((REPLAYED,)) if offset is None else _OFFSET.pack(REPLAYED, offset)


def placed_stdin(position: int, data: bytes, *, end: bool = False) -> bytes:
    """Return stdin with its place among the bytes of its writer."""
    return _PLACED.pack(PLACED_STDIN, position, end) + data


def stdin_taken(position: int) -> bytes:
    """Return the frame that says up to where the guest has taken a writer's bytes."""
    return _OFFSET.pack(STDIN_TAKEN, position)


def acknowledged(offset: int) -> bytes:
    """Return the frame that says up to where output has reached its client."""
    return _OFFSET.pack(ACKNOWLEDGED, offset)


def offset_of(frame: bytes) -> int:
    """Return the number in a `REPLAYED`, `STDIN_TAKEN` or `ACKNOWLEDGED` frame."""
    if len(frame) != _OFFSET.size:
        raise BadRequest("a frame of the wrong length")
    number: int = _OFFSET.unpack(frame)[1]
    return number


@dataclass(frozen=True, slots=True)
class Stdin:
    """A client's bytes for the process."""

    data: bytes
    is_last: bool = False
    position: int | None = None


def stdin_of(frame: bytes) -> Stdin | None:
    """Return what a frame of a client gives to the process; None for all other frames."""
    kind = frame[0] if frame else None
    if kind == STDIN and len(frame) > 1:
        return Stdin(frame[1:])
    if kind == STDIN_END:
        return Stdin(b"", is_last=True)
    if kind == PLACED_STDIN:
        if len(frame) < _PLACED.size:
            raise BadRequest("a frame of the wrong length")
        _, position, end = _PLACED.unpack_from(frame)
        return Stdin(frame[_PLACED.size :], is_last=bool(end), position=position)
    return None


def joined(waiting: deque[Stdin], *, bytes_max: int) -> Stdin:
    """Take the first from `waiting`, with those that follow it without a gap, up to the bound or the last."""
    stdin = waiting.popleft()
    pieces, size = [stdin.data], len(stdin.data)
    while waiting and not stdin.is_last and size + len(waiting[0].data) <= bytes_max:
        next_at = None if stdin.position is None else stdin.position + len(stdin.data)
        if waiting[0].position != next_at:
            break
        stdin = waiting.popleft()
        pieces.append(stdin.data)
        size += len(stdin.data)
    begin = None if stdin.position is None else stdin.position + len(stdin.data) - size
    return Stdin(b"".join(pieces), is_last=stdin.is_last, position=begin)


@dataclass(slots=True)
class Replay:
    """Cuts output into frames and puts the end of the replay between the right two bytes."""

    position: int
    replay_to: int
    is_over: bool = False

    def frames(self, stream: int, data: bytes) -> list[bytes]:
        """Return the frames for output that begins at `position`."""
        made: list[bytes] = []
        rest = memoryview(data)
        while rest:
            count = min(len(rest), FRAME_BYTES_MAX - 1)
            if not self.is_over:
                count = min(count, self.replay_to - self.position)
            made.append(output(stream, bytes(rest[:count])))
            self.position += count
            rest = rest[count:]
            made.extend(self.boundary())
        return made

    def boundary(self) -> list[bytes]:
        """Return the frame of the end of the replay when it has been reached, once."""
        if self.is_over or self.position < self.replay_to:
            return []
        self.is_over = True
        return [replayed(self.position)]
