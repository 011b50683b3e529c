"""Logs: one JSON object a line, secrets never in them."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, TextIO, cast

import structlog

from sandfleet.adapters.log_stream import LossyStream

_SECRET_WORDS = ("token", "secret", "authorization", "password", "api_key", "envs", "seed")
REDACTED = "[redacted]"


def configure(log_file: Path | None) -> None:
    """Send logs to the file, or to standard output."""
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        target: TextIO = log_file.open("a", encoding="utf-8", buffering=1)
    else:
        target = sys.stdout
    stream = cast(TextIO, LossyStream(target))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        stream=stream, level=logging.WARNING, format='{"level":"%(levelname)s","event":"%(message)s"}'
    )


def redact(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace the values of fields that could hold a secret."""
    for name in event:
        folded = name.lower()
        if any(word in folded for word in _SECRET_WORDS):
            event[name] = REDACTED
    return event
