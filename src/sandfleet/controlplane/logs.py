"""Structured logs: one JSON object a line, redacted before it is formatted."""

from __future__ import annotations

import logging
import sys
from typing import TextIO, cast

import structlog

from sandfleet.adapters.log_stream import LossyStream
from sandfleet.controlplane.http.log_lines import access_log, json_line
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
            structlog.processors.JSONRenderer(serializer=json_line),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    access_log.send_to(stream, least=number)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JsonLine())
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)


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
