"""Lifecycle verbs over HTTP: an order in, its answer out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sandfleet.model.errors import BadRequest
from sandfleet.worker.authentication import FleetTokens

ORDER_BYTES_MAX = 64 * 1024 * 1024
"""The manifest of a snapshot names each of its pieces."""
Handler = Callable[[Request], Awaitable[Response]]


class Termed(Protocol):
    """An order that says under which leader's term it is given."""

    @property
    def term(self) -> int:
        """The term."""
        ...


Order = TypeVar("Order", bound=Termed)


class Lifecycle:
    """ASGI endpoint of one lifecycle verb."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._handler(Request(scope, receive))
        await response(scope, receive, send)


def by_method(handlers: dict[str, Handler]) -> Lifecycle:
    """Return the endpoint that leads to one handler for each method."""

    async def dispatch(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await handlers[method](request)

    return Lifecycle(dispatch)


async def read_order(request: Request, kind: type[Order], tokens: FleetTokens) -> Order:
    """Return the order in the body, its term checked."""
    pieces: list[bytes] = []
    length = 0
    async for chunk in request.stream():
        pieces.append(chunk)
        length += len(chunk)
        if length > ORDER_BYTES_MAX:
            raise BadRequest("the order is too long")
    try:
        order = msgspec.json.decode(b"".join(pieces), type=kind)
    except msgspec.DecodeError as error:
        raise BadRequest(f"not an order: {error}") from error
    tokens.require_term(order.term)
    return order
