"""Structured logs: one JSON object a line, redacted before it is formatted."""

from __future__ import annotations

import json
import logging
import sys
from typing import TextIO, cast

import msgspec
import structlog

from sandfleet.adapters.log_stream import LossyStream
from sandfleet.controlplane.http.redaction import redact_event, redact_text


def configure_logs(level: str) -> None:
    """Send our lines and those of the libraries to standard error."""
    stream = cast(TextIO, LossyStream(sys.stderr))
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact_event,
            structlog.processors.JSONRenderer(serializer=_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JsonLine())
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)


def _json(event: object, **_: object) -> str:
    """Encode a line; a value that is not JSON's becomes its text, and text that is not Unicode is escaped."""
    try:
        return msgspec.json.encode(event, enc_hook=str).decode()
    except (UnicodeEncodeError, ValueError, TypeError, OverflowError):
        return json.dumps(event, default=str)


class _JsonLine(logging.Formatter):
    """Lines of libraries in the form of ours."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one redacted JSON object."""
        text = super().format(record)
        return structlog.processors.JSONRenderer()(  # type: ignore[return-value]
            None,
            record.levelname.lower(),
            {"event": redact_text(text), "logger": record.name, "level": record.levelname.lower()},
        )
