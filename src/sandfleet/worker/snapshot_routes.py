"""Routes of snapshots, for the worker's application."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandfleet.wire.worker_messages import CaptureVm, DropSnapshot, SaveVm, UploadSnapshot
from sandfleet.worker.authentication import FleetTokens
from sandfleet.worker.call import json_answer
from sandfleet.worker.host import Host
from sandfleet.worker.operations.capture_vm import capture_vm
from sandfleet.worker.operations.drop_snapshot import drop_snapshot
from sandfleet.worker.operations.save_vm import save_vm
from sandfleet.worker.operations.upload_snapshot import snapshot_states, upload_snapshot
from sandfleet.worker.orders import Lifecycle, by_method, read_order


def snapshot_routes(host: Host, tokens: FleetTokens) -> list[Route]:
    """Return the routes."""

    async def hibernate(request: Request) -> Response:
        order = await read_order(request, SaveVm, tokens)
        return json_answer(await save_vm(host, request.path_params["sandbox_id"], order))

    async def capture(request: Request) -> Response:
        order = await read_order(request, CaptureVm, tokens)
        return json_answer(await capture_vm(host, request.path_params["sandbox_id"], order))

    async def upload(request: Request) -> Response:
        await read_order(request, UploadSnapshot, tokens)
        return json_answer(upload_snapshot(host, request.path_params["snapshot_id"]))

    async def drop(request: Request) -> Response:
        await read_order(request, DropSnapshot, tokens)
        return json_answer(await drop_snapshot(host, request.path_params["snapshot_id"]))

    async def list_snapshots(_: Request) -> Response:
        return json_answer(await snapshot_states(host))

    vm, one = "/vms/{sandbox_id}", "/snapshots/{snapshot_id}"
    return [
        Route(f"{vm}/hibernate", Lifecycle(hibernate), methods=["POST"]),
        Route(f"{vm}/capture", Lifecycle(capture), methods=["POST"]),
        Route("/snapshots", Lifecycle(list_snapshots), methods=["GET"]),
        Route(one, by_method({"PUT": upload, "DELETE": drop}), methods=["PUT", "DELETE"]),
    ]
