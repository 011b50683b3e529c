"""Which headers of a request, or an answer, are meant for the other end, and not for the next hop."""

from __future__ import annotations

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


def decoded(headers: tuple[tuple[bytes, bytes], ...]) -> list[tuple[str, str]]:
    """Return raw headers as text that can be encoded back to the same bytes."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
