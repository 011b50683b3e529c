"""A log as it is written, a sandbox's or the fleet's: what happened so far, oldest first, then what comes.

`Feed` reads the stream and decides how to go on where a connection broke (no I/O); the
blocking and the awaiting reader only differ in who waits.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sandfleet_sdk.calls import Call, path_of
from sandfleet_sdk.errors import ApiError, BadAnswer, SandfleetError, Unreachable
from sandfleet_sdk.models import Event

if TYPE_CHECKING:
    from sandfleet_sdk.transport import AwaitingTransport, BlockingTransport

GAP = "gap"
"""Name of the event that says: rows after the one asked for are no longer kept."""
LOG = "//admin/events"
_ATTEMPTS_MAX = 40
_PAUSE_FIRST_S, _PAUSE_MAX_S = 0.1, 2.0
_LATER = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(slots=True)
class Feed:
    """How far a reader has come in one log."""

    path: str
    after: int = 0
    query: Mapping[str, str] = field(default_factory=dict)
    failures: int = 0
    _rest: bytes = field(default=b"", repr=False)

    @property
    def call(self) -> Call:
        """The request that goes on where this reader is."""
        return Call(
            method="GET",
            path=self.path,
            query={**self.query, "after": str(self.after)},
            headers={"Accept": "text/event-stream"},
        )

    def begin(self) -> None:
        """Note a new connection: half an event of the one before is worth nothing."""
        self._rest = b""

    def take(self, data: bytes) -> list[Event]:
        """Return the events that are complete now."""
        self.failures = 0
        *whole, self._rest = (self._rest + data).split(b"\n\n")
        return [event for text in whole if (event := self._event(text)) is not None]

    def failed(self, error: SandfleetError) -> float:
        """Return how long to wait before the next connection; raise what will not change."""
        if isinstance(error, ApiError) and error.status not in _LATER:
            raise error
        self.failures += 1
        if self.failures >= _ATTEMPTS_MAX:
            raise error
        return min(_PAUSE_MAX_S, _PAUSE_FIRST_S * 2.0**self.failures)

    def _event(self, text: bytes) -> Event | None:
        fields = dict(line.split(b": ", 1) for line in text.split(b"\n") if b": " in line)
        if b"data" not in fields or b"event" not in fields:
            return None  # a comment that keeps the connection alive
        try:
            body = json.loads(fields[b"data"])
            self.after = int(fields.get(b"id", self.after))
        except ValueError:
            raise BadAnswer(f"the stream of events has a line that is none: {text[:80]!r}") from None
        return Event.parse({"event": fields[b"event"].decode(), **body})


def sandbox_feed(sandbox_id: str, *, after: int = 0) -> Feed:
    """Yield the sandbox's log, oldest first, and then what comes; `after` is the id of an event."""
    return Feed(path_of("sandboxes", sandbox_id, "events"), after=after)


def fleet_feed(*, after: int = 0, types: Iterable[str] = (), **filters: str) -> Feed:
    """Yield what happens in the fleet, oldest first, and then what comes (scope `admin`).

    `filters` are those of `events`; without `after` it begins with the newest 2000.
    """
    return Feed(LOG, after=after, query=log_query(types, filters))


def log_query(types: Iterable[str], filters: Mapping[str, str | None]) -> Mapping[str, str]:
    """Return what the whole log is asked with."""
    given = {**filters, "type": ",".join(types)}
    return {name: value for name, value in given.items() if value}


def follow(transport: BlockingTransport, feed: Feed) -> Iterator[Event]:
    """Yield events for as long as the caller takes them; a broken connection is made again."""
    while True:
        error: SandfleetError = Unreachable("the server ended the stream of events")
        feed.begin()
        try:
            with closing(transport.pieces(feed.call)) as pieces:
                for piece in pieces:
                    yield from feed.take(piece)
        except (Unreachable, ApiError) as problem:
            error = problem
        time.sleep(feed.failed(error))


async def follow_awaiting(transport: AwaitingTransport, feed: Feed) -> AsyncIterator[Event]:
    """Yield events for as long as the caller takes them; a broken connection is made again."""
    while True:
        error: SandfleetError = Unreachable("the server ended the stream of events")
        feed.begin()
        try:
            async with aclosing(transport.pieces(feed.call)) as pieces:
                async for piece in pieces:
                    for event in feed.take(piece):
                        yield event
        except (Unreachable, ApiError) as problem:
            error = problem
        await asyncio.sleep(feed.failed(error))
