"""How a log line becomes JSON, and the line that each request leaves.

Rule: of a request's line the path, the query and the request id are the client's own text. Whoever
writes the line has redacted these; all else in it is ours, so nothing is looked through again.
"""

from __future__ import annotations

import json
import logging
from typing import Any, Protocol

import msgspec


class Sink(Protocol):
    """Where lines go."""

    def write(self, text: str, /) -> int:
        """Write."""
        ...


class RequestLine(msgspec.Struct, kw_only=True):
    """What is said of one request."""

    timestamp: str
    level: str
    event: str = "request"
    method: str
    path: str
    query: str
    route: str
    status: int
    ms: float
    request_id: str


class AccessLog:
    """Takes a line for each request and writes it in one piece; to nowhere until it is told where."""

    def __init__(self) -> None:
        self._sink: Sink | None = None
        self._least = logging.INFO
        self._encoder = msgspec.json.Encoder()

    def send_to(self, sink: Sink | None, *, least: int) -> None:
        """Write to `sink` from now on, from the level `least` on."""
        self._sink = sink
        self._least = least

    def takes(self, level: int) -> bool:
        """Whether a line of that level is written."""
        return self._sink is not None and level >= self._least

    def write(self, line: RequestLine) -> None:
        """Write one line."""
        if self._sink is not None:
            self._sink.write(self._encoder.encode(line).decode() + "\n")


access_log = AccessLog()
"""The one of this process; `configure_logs` says where it writes."""


def json_line(event: object, **_: Any) -> str:
    """Encode a line; a value that is not JSON's becomes its text, and text that is not Unicode is escaped."""
    try:
        return msgspec.json.encode(event, enc_hook=str).decode()
    except (UnicodeEncodeError, ValueError, TypeError, OverflowError):
        return json.dumps(event, default=str)
