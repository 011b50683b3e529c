"""Routes of the verbs that change a VM where it is, for the worker's application."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandfleet.wire.worker_messages import ResizeVm, RestartVm
from sandfleet.worker.authentication import FleetTokens
from sandfleet.worker.call import json_answer
from sandfleet.worker.host import Host
from sandfleet.worker.operations.resize_vm import resize_vm
from sandfleet.worker.operations.restart_vm import restart_vm
from sandfleet.worker.orders import Lifecycle, read_order


def size_routes(host: Host, tokens: FleetTokens) -> list[Route]:
    """Return the routes."""

    async def resize(request: Request) -> Response:
        order = await read_order(request, ResizeVm, tokens)
        return json_answer(await resize_vm(host, request.path_params["sandbox_id"], order))

    async def reboot(request: Request) -> Response:
        order = await read_order(request, RestartVm, tokens)
        name = request.path_params["sandbox_id"]
        return json_answer(await restart_vm(host, name, order, is_clean=True))

    async def power_cycle(request: Request) -> Response:
        order = await read_order(request, RestartVm, tokens)
        name = request.path_params["sandbox_id"]
        return json_answer(await restart_vm(host, name, order, is_clean=False))

    return [
        Route("/vms/{sandbox_id}/reboot", Lifecycle(reboot), methods=["POST"]),
        Route("/vms/{sandbox_id}/power-cycle", Lifecycle(power_cycle), methods=["POST"]),
        Route("/vms/{sandbox_id}/resize", Lifecycle(resize), methods=["POST"]),
    ]
