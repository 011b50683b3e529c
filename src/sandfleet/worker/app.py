"""The worker's HTTP application: routes to operations."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from sandfleet import __version__
from sandfleet.model.errors import NotFound
from sandfleet.wire.worker_messages import StartVm, StopVm
from sandfleet.worker import metrics
from sandfleet.worker.authentication import FleetTokens
from sandfleet.worker.call import json_answer
from sandfleet.worker.edge import DataPlane, Edge
from sandfleet.worker.glance import Glance
from sandfleet.worker.host import Host
from sandfleet.worker.move_routes import arrival_routes, departure_routes
from sandfleet.worker.operations.exec_async import exec_async
from sandfleet.worker.operations.exec_result import exec_result
from sandfleet.worker.operations.exec_run import exec_run
from sandfleet.worker.operations.file_delete import file_delete
from sandfleet.worker.operations.file_list import file_list
from sandfleet.worker.operations.file_mkdir import file_mkdir
from sandfleet.worker.operations.file_read import file_read
from sandfleet.worker.operations.file_write import file_write
from sandfleet.worker.operations.start import start
from sandfleet.worker.operations.stats import stats
from sandfleet.worker.operations.status import status, statuses
from sandfleet.worker.operations.stop import stop
from sandfleet.worker.orders import Lifecycle, by_method, read_order
from sandfleet.worker.session_routes import session_routes
from sandfleet.worker.size_routes import size_routes
from sandfleet.worker.snapshot_routes import snapshot_routes


def create_app(host: Host, tokens: FleetTokens) -> ASGIApp:
    """Return the application around the given parts."""

    async def health(_: Request) -> Response:
        ready = host.is_adopted and not host.is_stopping
        word = "ok" if ready else ("stopping" if host.is_stopping else "starting")
        body: dict[str, object] = {"status": word, "version": __version__, "role": "worker"}
        body |= {"phase": host.phase, "trouble": host.trouble, "degraded": list(host.hypervisor.degraded)}
        return json_answer(body, status=200 if ready else 503)

    async def scrape(_: Request) -> Response:
        return Response(metrics.exposition(host), media_type=metrics.CONTENT_TYPE)

    async def list_vms(_: Request) -> Response:
        return json_answer(statuses(host))

    async def get_vm(request: Request) -> Response:
        return json_answer(status(host, request.path_params["sandbox_id"]))

    async def put_vm(request: Request) -> Response:
        order = await read_order(request, StartVm, tokens)
        return json_answer(await start(host, request.path_params["sandbox_id"], order))

    async def delete_vm(request: Request) -> Response:
        order = await read_order(request, StopVm, tokens)
        return json_answer(await stop(host, request.path_params["sandbox_id"], order))

    one = "/vms/{sandbox_id}"
    routes = [
        *_data_plane_routes(host),
        Route("/health", Lifecycle(health), methods=["GET"]),
        Route("/metrics", Lifecycle(scrape), methods=["GET"]),
        Route("/vms", Lifecycle(list_vms), methods=["GET"]),
        Route(
            one,
            by_method({"GET": get_vm, "PUT": put_vm, "DELETE": delete_vm}),
            methods=["GET", "PUT", "DELETE"],
        ),
        *snapshot_routes(host, tokens),
        *size_routes(host, tokens),
        *departure_routes(host, tokens),
        *arrival_routes(host, tokens),
    ]
    return Edge(Router(routes, redirect_slashes=False, default=_unknown), host=host, tokens=tokens)


def _data_plane_routes(host: Host) -> list[BaseRoute]:
    """Return the routes of the data plane, those called most first."""
    root = "/sandboxes/{sandbox_id}"
    reading, writing, deleting = (
        DataPlane(host, file_read, name="file_read"),
        DataPlane(host, file_write, name="file_write"),
        DataPlane(host, file_delete, name="file_delete"),
    )
    run = DataPlane(host, exec_run, name="exec_run")
    return [
        Route(f"{root}/exec/run", run, methods=["POST"]),
        Route(f"{root}/commands", run, methods=["POST"]),
        Route(f"{root}/exec/run-async", DataPlane(host, exec_async, name="exec_async"), methods=["POST"]),
        Route(
            f"{root}/exec/{{exec_id}}/result",
            DataPlane(host, exec_result, name="exec_result"),
            methods=["GET"],
        ),
        Route(f"{root}/files", reading, methods=["GET"]),
        Route(f"{root}/files", writing, methods=["PUT"]),
        Route(f"{root}/files", deleting, methods=["DELETE"]),
        Route(f"{root}/stats", Glance(host, stats), methods=["GET"]),
        Route(f"{root}/files/list", DataPlane(host, file_list, name="file_list"), methods=["GET"]),
        Route(f"{root}/files/mkdir", DataPlane(host, file_mkdir, name="file_mkdir"), methods=["POST"]),
        *session_routes(host, root),
    ]


async def _unknown(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotFound("no such path")
