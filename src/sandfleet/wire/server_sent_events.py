"""Server-sent events as bytes. Lines end in `\\n`, events in an empty line; each has one data line."""

from __future__ import annotations

MEDIA_TYPE = "text/event-stream"
KEEPALIVE = b": keepalive\n\n"
"""A comment: readers skip it, and connections stay open."""
_ID_LENGTH_MAX = 18


def event(name: str | None, data: bytes, *, number: int | None = None) -> bytes:
    """Return one event; `data` is JSON without line breaks. A reader goes on after `number`.

    Without a name it is what plain readers take: a message.
    """
    head = b"" if number is None else b"id: %d\n" % number
    head += b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + data + b"\n\n"


def is_asked_for(accept: str | None) -> bool:
    """Whether an `Accept` header names the stream's media type."""
    kinds = (kind.partition(";")[0].strip().lower() for kind in (accept or "").split(","))
    return MEDIA_TYPE in kinds


def number_of(text: str | None) -> int | None:
    """Return where a reader goes on: None for nothing given, ValueError for what is no number of an event."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > _ID_LENGTH_MAX:
        raise ValueError("not the number of an event")
    return int(text)
