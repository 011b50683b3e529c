"""What a sandbox can ask about itself: plain HTTP at 169.254.169.254, without a credential.

Rule 1: each machine has a listener of its own inside its own namespace. Who asks follows
from the socket the question came in by, so nothing in a request is believed.
Rule 2: asking is no activity: a guest that polls does not keep itself awake.
Rule 3: a change of size goes to the control plane, where the same rules hold as from outside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import msgspec
import structlog
from aiohttp import web

from sandfleet.model.errors import SandfleetError
from sandfleet.ports.hypervisor import Machine
from sandfleet.wire.errors import status_of
from sandfleet.worker.host import Host
from sandfleet.worker.operations.stats import public_stats
from sandfleet.worker.residents import Resident, VmState

log = structlog.get_logger("sandfleet.worker")
LOOK_AGAIN_S = 0.2
RETRY_AFTER_FAILURE_S = 5.0
KEEP_ALIVE_S = 15.0
BODY_BYTES_MAX = 64 * 1024
JSON_TYPE = "application/json"
_SERVED = (VmState.RUNNING, VmState.SAVING)

Answerer = Callable[[Host, Resident, bytes], Awaitable[web.Response]]


async def serve_metadata(host: Host, resident: Resident, machine: Machine) -> None:
    """Answer the sandbox for as long as it is here; a save that fails only interrupts it."""
    while resident.state in _SERVED and resident.machine is machine:
        pause_s = LOOK_AGAIN_S
        try:
            async with resident.attachment():
                await _serve(host, resident, machine)
        except SandfleetError as error:
            if resident.state is VmState.RUNNING:
                pause_s = RETRY_AFTER_FAILURE_S
                log.warning("metadata_not_served", sandbox=resident.sandbox_id, reason=error.message)
        await host.clock.sleep(pause_s)


async def _serve(host: Host, resident: Resident, machine: Machine) -> None:
    listener = await machine.listen_for_metadata()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return await answer_metadata(host, resident, request)

    http = web.Server(answer, access_log=None, keepalive_timeout=KEEP_ALIVE_S)
    server = await asyncio.get_running_loop().create_server(http, sock=listener)
    try:
        await asyncio.Event().wait()
    finally:
        server.close()
        await http.shutdown(0)


async def answer_metadata(host: Host, resident: Resident, request: web.BaseRequest) -> web.StreamResponse:
    """Answer one request; errors are plain text."""
    found = ANSWERS.get((request.method, request.path.rstrip("/") or "/"))
    if found is None:
        is_path = any(path == request.path for _, path in ANSWERS)
        return _text(405 if is_path else 404, "no such method" if is_path else "no such path")
    try:
        body = await request.content.read(BODY_BYTES_MAX + 1)
        if len(body) > BODY_BYTES_MAX:
            return _text(413, "the body is too long")
        return await found(host, resident, body)
    except SandfleetError as error:
        return _text(status_of(error), error.message)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        log.warning("metadata_failed", sandbox=resident.sandbox_id, reason=str(error))
        return _text(503, "the control plane does not answer")


async def _index(_host: Host, _resident: Resident, _body: bytes) -> web.Response:
    return _json({"endpoints": sorted(path for _, path in ANSWERS if path != "/")})


async def _status(_host: Host, resident: Resident, _body: bytes) -> web.Response:
    measured = await resident.glance().guest.stats()
    return _json({"sandboxId": resident.sandbox_id, "uptime": measured.uptime_s})


async def _limits(_host: Host, resident: Resident, _body: bytes) -> web.Response:
    return _json(public_stats(await resident.glance().guest.stats()))


async def _metadata(host: Host, resident: Resident, _body: bytes) -> web.Response:
    return _json({"region": host.region, "template": resident.order.template})


async def _scale(host: Host, resident: Resident, body: bytes) -> web.Response:
    if host.ask_for_size is None:
        return _text(501, "this worker has no control plane to ask")
    status, answer = await host.ask_for_size(resident.sandbox_id, resident.epoch, body)
    if status >= 300:
        return _text(status, str(answer.get("error", "refused")))
    return _json({"ok": True, "memoryMB": answer["memoryMB"], "cpuPercent": answer["cpuPercent"]})


ANSWERS: dict[tuple[str, str], Answerer] = {
    ("GET", "/"): _index,
    ("GET", "/v1/status"): _status,
    ("GET", "/v1/limits"): _limits,
    ("POST", "/v1/scale"): _scale,
    ("GET", "/v1/metadata"): _metadata,
}


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type=JSON_TYPE)


def _text(status: int, message: str) -> web.Response:
    return web.Response(status=status, text=message + "\n")
