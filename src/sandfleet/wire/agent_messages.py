"""What host and guest agent say to each other inside frames: operations, limits, JSON.

Every operation is one stream: OPEN carries `{"op": NAME, ...}`, DATA goes both
ways, END of the agent carries the result, RESET an error code and a message.
A request or a result that does not fit in one frame says `"body": true`, and
the rest of its fields follow as JSON in DATA.

Names of files may not be UTF-8: they travel as Python's surrogate escapes, which
JSON keeps as `\\udcXX`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PROTOCOL_VERSION = 1
PORT_NAME = "sandfleet.agent.0"

INLINE_JSON_BYTES_MAX = 32 * 1024
"""Longer JSON goes as a body."""
REQUEST_BODY_BYTES_MAX = 4 * 1024 * 1024
"""The kernel takes no more than 2 MiB of arguments and environment."""
RESULT_BODY_BYTES_MAX = 64 * 1024 * 1024

OUTPUT_RETAINED_BYTES = 16 * 1024 * 1024
STDIN_BUFFERED_BYTES_MAX = 1024 * 1024
EXEC_WAIT_S_MAX = 60.0
WARM_EXEC_PREFIX = "warm-"
"""Ids of commands that were run before the guest was anybody's: a new identity forgets them."""


class Op:
    """Names of operations."""

    EXEC_START = "exec_start"
    EXEC_READ = "exec_read"
    EXEC_WAIT = "exec_wait"
    EXEC_STATUS = "exec_status"
    EXEC_LIST = "exec_list"
    EXEC_STDIN = "exec_stdin"
    EXEC_KILL = "exec_kill"
    EXEC_ATTACH = "exec_attach"
    EXEC_RESIZE = "exec_resize"
    PORT_CONNECT = "port_connect"
    FILE_STAT = "file_stat"
    FILE_LIST = "file_list"
    FILE_MKDIR = "file_mkdir"
    FILE_DELETE = "file_delete"
    FILE_READ = "file_read"
    FILE_WRITE = "file_write"
    IDENTITY = "identity"
    CLOCK = "clock"
    LIMITS = "limits"
    GROW_DISK = "grow_disk"
    STATS = "stats"
    QUIESCE = "quiesce"
    REHEARSAL = "rehearsal"
    SHUT_DOWN = "shut_down"


class Code:
    """Error codes in RESET. The host turns them into errors of `model.errors`."""

    BAD_REQUEST = "bad_request"
    NOT_FOUND = "not_found"
    IS_DIRECTORY = "is_directory"
    NOT_A_DIRECTORY = "not_a_directory"
    DISK_FULL = "disk_full"
    EXEC_FAILED = "exec_failed"
    REFUSED = "refused"
    OFFSET_OUT_OF_RANGE = "offset_out_of_range"
    CHANGED = "changed"
    BUSY = "busy"
    CANCELLED = "cancelled"
    INTERNAL = "internal"


class MalformedMessage(Exception):
    """The peer sent something that is not a message."""


class OperationFailed(Exception):
    """What an operation answers instead of a result."""

    def __init__(self, code: str, message: str, *, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = dict(details or {})


def _no_constant(name: str) -> float:
    raise ValueError(name)


# Made once: in a translated guest making them costs as much as using them.
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False)
_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def encode_json(message: Mapping[str, Any]) -> bytes:
    """Return compact ASCII JSON."""
    return _ENCODER.encode(message).encode("ascii")


def decode_json(data: bytes, *, bytes_max: int = RESULT_BODY_BYTES_MAX) -> dict[str, Any]:
    """Return the JSON object in `data`; anything else is malformed, however it is built."""
    if len(data) > bytes_max:
        raise MalformedMessage(f"a message of {len(data)} bytes")
    try:
        message = _DECODER.decode(data.decode())
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f"not JSON: {type(error).__name__}") from error
    if not isinstance(message, dict):
        raise MalformedMessage("not an object")
    return message


_OUTPUT_HEAD = struct.Struct("!BQ")
OUTPUT_HEAD_BYTES = _OUTPUT_HEAD.size


def encode_output(stream: int, offset: int, data: bytes) -> bytes:
    """Return the DATA payload for a piece of exec output."""
    return _OUTPUT_HEAD.pack(stream, offset) + data


def decode_output(payload: bytes) -> tuple[int, int, bytes]:
    """Return stream, offset and bytes of a piece of exec output."""
    if len(payload) <= OUTPUT_HEAD_BYTES:
        raise MalformedMessage("a piece of output without bytes")
    stream, offset = _OUTPUT_HEAD.unpack_from(payload)
    if stream not in (1, 2):
        raise MalformedMessage(f"output stream {stream}")
    return stream, offset, payload[OUTPUT_HEAD_BYTES:]


_ACKNOWLEDGED = struct.Struct("!Q")
ACKNOWLEDGED_BYTES = _ACKNOWLEDGED.size


def encode_acknowledged(offset: int) -> bytes:
    """Return the DATA by which the host says up to where output has reached its reader."""
    return _ACKNOWLEDGED.pack(offset)


def decode_acknowledged(payload: bytes) -> int:
    """Return that offset."""
    if len(payload) != ACKNOWLEDGED_BYTES:
        raise MalformedMessage(f"an acknowledgement of {len(payload)} bytes")
    offset: int = _ACKNOWLEDGED.unpack(payload)[0]
    return offset


@dataclass(frozen=True, slots=True)
class Fields:
    """Typed access to the fields of a message; a wrong type is a malformed message."""

    values: Mapping[str, Any]

    def text(self, name: str, default: str | None = None) -> str:
        """Return a string."""
        value: str = self._of(name, str, default=default)
        return value

    def flag(self, name: str, default: bool | None = None) -> bool:
        """Return a boolean."""
        value: bool = self._of(name, bool, default=default)
        return value

    def integer(self, name: str, default: int | None = None) -> int:
        """Return a whole number that fits in 64 bits."""
        value: int = self._of(name, int, default=default)
        if isinstance(value, bool) or not -(2**63) <= value < 2**63:
            raise MalformedMessage(f"{name} is no 64-bit number")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Return a number."""
        value = self.values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e18 < value < 1e18:
            raise MalformedMessage(f"{name} is no number")
        return float(value)

    def number_or_none(self, name: str) -> float | None:
        """Return a number, or None where it is absent."""
        return None if self.values.get(name) is None else self.number(name)

    def integer_or_none(self, name: str) -> int | None:
        """Return a whole number, or None where it is absent."""
        return None if self.values.get(name) is None else self.integer(name)

    def text_or_none(self, name: str) -> str | None:
        """Return a string, or None where it is absent."""
        return None if self.values.get(name) is None else self.text(name)

    def texts(self, name: str) -> list[str]:
        """Return a list of strings."""
        value: list[Any] = self._of(name, list, default=None)
        if not all(isinstance(item, str) for item in value):
            raise MalformedMessage(f"{name} is no list of strings")
        return value

    def text_map(self, name: str) -> dict[str, str]:
        """Return an object of strings; absent is empty."""
        value: dict[str, Any] = self._of(name, dict, default={})
        if not all(isinstance(item, str) for item in value.values()):
            raise MalformedMessage(f"{name} is no object of strings")
        return value

    def objects(self, name: str) -> list[Fields]:
        """Return a list of objects."""
        value: list[Any] = self._of(name, list, default=None)
        if not all(isinstance(item, dict) for item in value):
            raise MalformedMessage(f"{name} is no list of objects")
        return [Fields(item) for item in value]

    def _of(self, name: str, kind: type, *, default: Any) -> Any:
        value = self.values.get(name, default)
        if not isinstance(value, kind):
            raise MalformedMessage(f"{name} is no {kind.__name__}")
        return value
