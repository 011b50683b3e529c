"""Routes of live migration, for the worker's application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandfleet.wire.move_messages import (
    AbandonMove,
    AwaitLanding,
    CommitMove,
    DescribeVm,
    EndMove,
    PublishBackings,
    ReceiveMove,
    SendMove,
)
from sandfleet.worker.authentication import FleetTokens
from sandfleet.worker.call import json_answer
from sandfleet.worker.host import Host
from sandfleet.worker.operations.commit_move import commit_move
from sandfleet.worker.operations.end_move import release, stay
from sandfleet.worker.operations.publish_backings import publish_backings
from sandfleet.worker.operations.receive_move import abandon_move, arrival_state, landed, receive_move
from sandfleet.worker.operations.send_move import describe_vm, move_state, send_move
from sandfleet.worker.orders import Handler, Lifecycle, Order, by_method, read_order


def departure_routes(host: Host, tokens: FleetTokens) -> list[Route]:
    """Return the routes at the source."""
    verbs = _Verbs(host, tokens, subject="sandbox_id")
    vm = "/vms/{sandbox_id}"
    moving = {"PUT": verbs.ordered(SendMove, send_move), "GET": verbs.told(move_state)}
    return [
        _posted(f"{vm}/describe", verbs.ordered(DescribeVm, describe_vm)),
        _posted(f"{vm}/backings", verbs.ordered(PublishBackings, publish_backings)),
        Route(f"{vm}/move", by_method(moving), methods=[*moving]),
        _posted(f"{vm}/move/stay", verbs.ordered(EndMove, stay)),
        _posted(f"{vm}/move/release", verbs.ordered(EndMove, release)),
    ]


def arrival_routes(host: Host, tokens: FleetTokens) -> list[Route]:
    """Return the routes at the target."""
    verbs = _Verbs(host, tokens, subject="move_id")
    one = "/moves/{move_id}"
    coming = {
        "PUT": verbs.ordered(ReceiveMove, receive_move),
        "GET": verbs.told(arrival_state),
        "DELETE": verbs.ordered(AbandonMove, abandon_move),
    }
    return [
        Route(one, by_method(coming), methods=[*coming]),
        _posted(f"{one}/landed", verbs.ordered(AwaitLanding, landed)),
        _posted(f"{one}/commit", verbs.ordered(CommitMove, commit_move)),
    ]


class _Verbs:
    """Makes handlers of operations on what the path names as `subject`."""

    def __init__(self, host: Host, tokens: FleetTokens, *, subject: str) -> None:
        self._host = host
        self._tokens = tokens
        self._subject = subject

    def ordered(self, kind: type[Order], verb: Callable[[Host, str, Order], Awaitable[Any]]) -> Handler:
        """Return the handler of an operation that is given an order."""

        async def handle(request: Request) -> Response:
            order = await read_order(request, kind, self._tokens)
            return json_answer(await verb(self._host, request.path_params[self._subject], order))

        return handle

    def told(self, look: Callable[[Host, str], Any]) -> Handler:
        """Return the handler of one that only says how it stands."""

        async def handle(request: Request) -> Response:
            return json_answer(look(self._host, request.path_params[self._subject]))

        return handle


def _posted(path: str, handler: Handler) -> Route:
    return Route(path, Lifecycle(handler), methods=["POST"])
