"""Routes of live migration, for the worker's application."""

from __future__ import annotations

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
from sandfleet.worker.orders import Handler, Lifecycle, by_method, read_order


def departure_routes(host: Host, tokens: FleetTokens) -> list[Route]:
    """Return the routes at the source."""

    async def describe(request: Request) -> Response:
        order = await read_order(request, DescribeVm, tokens)
        return json_answer(await describe_vm(host, _sandbox(request), order))

    async def publish(request: Request) -> Response:
        order = await read_order(request, PublishBackings, tokens)
        return json_answer(await publish_backings(host, _sandbox(request), order))

    async def put_move(request: Request) -> Response:
        order = await read_order(request, SendMove, tokens)
        return json_answer(await send_move(host, _sandbox(request), order))

    async def get_move(request: Request) -> Response:
        return json_answer(move_state(host, _sandbox(request)))

    async def call_back(request: Request) -> Response:
        order = await read_order(request, EndMove, tokens)
        return json_answer(await stay(host, _sandbox(request), order))

    async def let_go(request: Request) -> Response:
        order = await read_order(request, EndMove, tokens)
        return json_answer(await release(host, _sandbox(request), order))

    vm = "/vms/{sandbox_id}"
    return [
        Route(f"{vm}/describe", Lifecycle(describe), methods=["POST"]),
        Route(f"{vm}/backings", Lifecycle(publish), methods=["POST"]),
        Route(f"{vm}/move", by_method({"PUT": put_move, "GET": get_move}), methods=["GET", "PUT"]),
        Route(f"{vm}/move/stay", Lifecycle(call_back), methods=["POST"]),
        Route(f"{vm}/move/release", Lifecycle(let_go), methods=["POST"]),
    ]


def arrival_routes(host: Host, tokens: FleetTokens) -> list[Route]:
    """Return the routes at the target."""

    async def receive(request: Request) -> Response:
        order = await read_order(request, ReceiveMove, tokens)
        return json_answer(await receive_move(host, _move(request), order))

    async def get_arrival(request: Request) -> Response:
        return json_answer(arrival_state(host, _move(request)))

    async def abandon(request: Request) -> Response:
        order = await read_order(request, AbandonMove, tokens)
        return json_answer(await abandon_move(host, _move(request), order))

    async def await_landing(request: Request) -> Response:
        order = await read_order(request, AwaitLanding, tokens)
        return json_answer(await landed(host, _move(request), order))

    async def commit(request: Request) -> Response:
        order = await read_order(request, CommitMove, tokens)
        return json_answer(await commit_move(host, _move(request), order))

    one = "/moves/{move_id}"
    handlers: dict[str, Handler] = {"PUT": receive, "GET": get_arrival, "DELETE": abandon}
    return [
        Route(one, by_method(handlers), methods=["GET", "PUT", "DELETE"]),
        Route(f"{one}/landed", Lifecycle(await_landing), methods=["POST"]),
        Route(f"{one}/commit", Lifecycle(commit), methods=["POST"]),
    ]


def _sandbox(request: Request) -> str:
    return str(request.path_params["sandbox_id"])


def _move(request: Request) -> str:
    return str(request.path_params["move_id"])
