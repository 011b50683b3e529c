"""What a preview sends through a worker to a guest port, and what comes back. Bytes in, values out.

The call to the worker is one POST. Its body begins with the head of the request for
the guest, the answer's body with the head of the guest's answer, each a length and
JSON: so no header of an application can meet one of the fleet's. After the head of a
plain request comes the body as it is. After the head of a WebSocket come frames, in
both directions at once: kind, length, payload.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import TypeVar

import msgspec

from sandfleet.model.errors import BadRequest

HEAD_BYTES_MAX = 512 * 1024
FRAME_BYTES_MAX = 17 * 1024 * 1024
_LENGTH = struct.Struct(">I")
_FRAME = struct.Struct(">BI")


class PortRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The head of a request for a guest port. `target` is path and query as the client sent them."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    has_body: bool = False
    protocols: list[str] = []
    """WebSocket subprotocols that the client offers."""


class PortAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The head of the guest's answer. `protocol` is the subprotocol of a WebSocket."""

    status: int
    headers: list[tuple[str, str]]
    protocol: str | None = None


class FrameKind(IntEnum):
    """What a frame of a WebSocket carries."""

    TEXT = 1
    BINARY = 2
    CLOSE = 8


class Close(msgspec.Struct, frozen=True, kw_only=True):
    """Payload of a CLOSE frame."""

    code: int = 1000
    reason: str = ""


Head = TypeVar("Head", PortRequest, PortAnswer)


def encode_head(head: PortRequest | PortAnswer) -> bytes:
    """Return length and JSON."""
    body = msgspec.json.encode(head)
    return _LENGTH.pack(len(body)) + body


def encode_frame(kind: FrameKind, payload: bytes) -> bytes:
    """Return one frame."""
    return _FRAME.pack(kind, len(payload)) + payload


class HeadReader:
    """Takes bytes until the head is complete; what follows it stays in `rest`."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes, kind: type[Head]) -> Head | None:
        """Return the head once it is there; BadRequest for what is none."""
        self.rest += data
        if len(self.rest) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self.rest)
        if length > HEAD_BYTES_MAX:
            raise BadRequest("the head of a port's message is too long")
        end = _LENGTH.size + length
        if len(self.rest) < end:
            return None
        body, self.rest = self.rest[_LENGTH.size : end], self.rest[end:]
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.DecodeError as error:
            raise BadRequest("no head of a port's message") from error


class FrameReader:
    """Cuts a stream into frames."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[FrameKind, bytes]]:
        """Yield every frame that is complete; BadRequest for what is none."""
        self._held += data
        while len(self._held) >= _FRAME.size:
            number, length = _FRAME.unpack_from(self._held)
            if length > FRAME_BYTES_MAX:
                raise BadRequest("a frame of a port's WebSocket is too long")
            end = _FRAME.size + length
            if len(self._held) < end:
                return
            payload = bytes(self._held[_FRAME.size : end])
            del self._held[:end]
            try:
                yield FrameKind(number), payload
            except ValueError as error:
                raise BadRequest("an unknown frame of a port's WebSocket") from error


HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"),
        *("te", "trailer", "transfer-encoding", "upgrade", "expect"),
    }
)


def end_to_end(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the headers that are meant for the other end, not for the next hop."""
    named = {
        word.strip().lower()
        for name, value in headers
        if name.lower() == "connection"
        for word in value.split(",")
    }
    return [
        (name, value)
        for name, value in headers
        if name.lower() not in HOP_BY_HOP and name.lower() not in named
    ]
