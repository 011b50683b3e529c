"""Frames of the agent channel: bytes in, frames out, and back.

    magic 4 | type 1 | zero 3 | stream 4 | length 4 | crc of these 16 bytes 4 | payload | seal 4

Facts: the channel is a virtio serial port. It loses and reorders nothing, but a
peer may die in the middle of a frame and the next one goes on behind that half.
So what must be detected is a cut, not a flipped bit: the header has a checksum,
and the payload is followed by a seal made from it. Zeros in place of the missing
rest never make a seal. A checksum of the payload would cost a translated guest
a third of its throughput and find nothing more.

A reader looks for the next whole frame after anything else; `PADDING` ends
whatever half frame the other side may be waiting for.
"""

from __future__ import annotations

import enum
import struct
import zlib
from dataclasses import dataclass

PAYLOAD_BYTES_MAX = 64 * 1024
MAGIC = b"\xf5\x9dSF"

_FIELDS = struct.Struct("!4sB3xII")
_CRC = struct.Struct("!I")
_HEADER = struct.Struct("!4sB3xIII")
HEADER_BYTES = _HEADER.size
SEAL_BYTES = _CRC.size
FRAME_BYTES_MAX = HEADER_BYTES + PAYLOAD_BYTES_MAX + SEAL_BYTES
PADDING = bytes(FRAME_BYTES_MAX)


class FrameType(enum.IntEnum):
    """What a frame is for; the meaning of its payload is the channel's."""

    HELLO = 1
    HELLO_ACK = 2
    OPEN = 3
    DATA = 4
    WINDOW = 5
    END = 6
    RESET = 7
    PING = 8
    PONG = 9


_TYPES = {int(kind): kind for kind in FrameType}


@dataclass(frozen=True, slots=True)
class Frame:
    """One whole frame."""

    kind: FrameType
    stream: int
    payload: bytes


def encode(kind: FrameType, *, stream: int = 0, payload: bytes = b"") -> bytes:
    """Return the bytes of one frame."""
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise ValueError(f"a payload of {len(payload)} bytes does not fit in one frame")
    fields = _FIELDS.pack(MAGIC, kind, stream, len(payload))
    crc = zlib.crc32(fields)
    return b"".join((fields, _CRC.pack(crc), payload, _CRC.pack(_seal(crc))))


def _seal(crc: int) -> int:
    return (crc ^ 0x5A5A5A5A) | 1  # never zero: a frame completed by padding is not sealed


class FrameReader:
    """Finds whole frames in a stream of bytes. Holds at most one frame and what was fed last."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.skipped_bytes = 0
        """How many bytes so far belonged to no whole frame."""

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes. Take all frames by `next_frame` before feeding again."""
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """Return the next whole frame, or None when more bytes are needed."""
        while self._seek_magic():
            head = self._head()
            if head is None:
                self._skip(1)
                continue
            kind, stream, length, seal = head
            end = HEADER_BYTES + length
            if len(self._buffer) < end + SEAL_BYTES:
                return None
            if _CRC.unpack_from(self._buffer, end)[0] != seal:
                self._skip(1)
                continue
            with memoryview(self._buffer) as view:
                payload = bytes(view[HEADER_BYTES:end])
            del self._buffer[: end + SEAL_BYTES]
            return Frame(kind, stream, payload)
        return None

    def _seek_magic(self) -> bool:
        """Drop what cannot begin a frame; return whether a whole header stands at the front."""
        at = self._buffer.find(MAGIC)
        if at == 0:
            return len(self._buffer) >= HEADER_BYTES
        if at < 0:
            keep = min(len(MAGIC) - 1, len(self._buffer))
            while keep and not MAGIC.startswith(self._buffer[len(self._buffer) - keep :]):
                keep -= 1
            at = len(self._buffer) - keep
        self._skip(at)
        return len(self._buffer) >= HEADER_BYTES

    def _head(self) -> tuple[FrameType, int, int, int] | None:
        """Return type, stream, length and seal of the header at the front if it is valid."""
        _, number, stream, length, crc = _HEADER.unpack_from(self._buffer)
        kind = _TYPES.get(number)
        if kind is None or length > PAYLOAD_BYTES_MAX:
            return None
        if zlib.crc32(self._buffer[: _FIELDS.size]) != crc:
            return None
        return kind, stream, length, _seal(crc)

    def _skip(self, count: int) -> None:
        if count:
            del self._buffer[:count]
            self.skipped_bytes += count
