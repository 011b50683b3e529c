"""A flow becomes a method of a client: blocking or awaiting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from sandfleet_sdk.calls import Flow
from sandfleet_sdk.event_feed import Feed, follow, follow_awaiting
from sandfleet_sdk.models import Event
from sandfleet_sdk.transport import AwaitingTransport, BlockingTransport

P = ParamSpec("P")
T = TypeVar("T")


class Blocking:
    def __init__(self, transport: BlockingTransport) -> None:
        self._transport = transport


class Awaiting:
    def __init__(self, transport: AwaitingTransport) -> None:
        self._transport = transport


def blocking(flow: Callable[P, Flow[T]]) -> Callable[Concatenate[Blocking, P], T]:
    @wraps(flow)
    def method(self: Blocking, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._transport.run(flow(*args, **kwargs))

    return method


def awaiting(flow: Callable[P, Flow[T]]) -> Callable[Concatenate[Awaiting, P], Awaitable[T]]:
    @wraps(flow)
    async def method(self: Awaiting, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._transport.run(flow(*args, **kwargs))

    return method


def blocking_feed(
    feed: Callable[P, Feed],
) -> Callable[Concatenate[Blocking, P], Iterator[Event]]:
    """Return a method that yields the events of a feed, and then what comes."""

    @wraps(feed)
    def method(self: Blocking, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[Event]:
        return follow(self._transport, feed(*args, **kwargs))

    return method


def awaiting_feed(
    feed: Callable[P, Feed],
) -> Callable[Concatenate[Awaiting, P], AsyncIterator[Event]]:
    """Return a method that yields the events of a feed, and then what comes."""

    @wraps(feed)
    def method(self: Awaiting, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Event]:
        return follow_awaiting(self._transport, feed(*args, **kwargs))

    return method
