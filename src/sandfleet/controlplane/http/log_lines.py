"""How a log line becomes JSON, and the line that each request leaves.

Rule: of a request's line the path, the query and the request id are the client's own text. Whoever
writes the line has redacted these; all else in it is ours, so nothing is looked through again.
"""

from __future__ import annotations

import json

import msgspec
import structlog


def json_line(event: object, **_: object) -> str:
    """Encode a line; a value that is not JSON's becomes its text, and text that is not Unicode is escaped."""
    try:
        return msgspec.json.encode(event, enc_hook=str).decode()
    except (UnicodeEncodeError, ValueError, TypeError, OverflowError):
        return json.dumps(event, default=str)


access_log = structlog.wrap_logger(
    None,
    processors=[
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.JSONRenderer(serializer=json_line),
    ],
)
"""Writes where all lines go, at the level that is set for all."""
