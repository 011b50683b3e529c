"""`…/stats`, `…/token/refresh` and `…/allowed-hosts`: what is asked about the sandbox itself."""

from __future__ import annotations

from contextlib import AsyncExitStack

import msgspec

from sandfleet.controlplane.api.paths import SANDBOX, data_plane
from sandfleet.controlplane.http.answers import Answer, json_answer, model_answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import Call, Endpoint
from sandfleet.controlplane.proxy.forward import attempt_once
from sandfleet.controlplane.proxy.readiness import find_sandbox, gone, locate, locate_by_row
from sandfleet.model.errors import NotReady, SandfleetError
from sandfleet.model.sandbox import Sandbox
from sandfleet.ports.data_plane import DataPlaneRequest
from sandfleet.wire.public_sandbox import AllowedHostsBody, StatsBody, TokenBody

ATTEMPTS_MAX = 3
STATS_BYTES_MAX = 64 * 1024
STATS_SILENCE_S = 10.0


async def sandbox_stats(call: Call) -> Answer:
    """Return what the sandbox uses. Neither wakes it nor keeps it awake."""
    organisation_id, sandbox_id = call.principal.organisation_id, call.values["id"]
    located = await locate(call.edge, organisation_id, sandbox_id)
    request = DataPlaneRequest(
        method="GET",
        target=f"/sandboxes/{sandbox_id}/stats",
        headers={},
        silence_max_s=STATS_SILENCE_S,
    )
    for _ in range(ATTEMPTS_MAX):
        if isinstance(located, Sandbox):
            return model_answer(200, _nothing_used(located))
        async with AsyncExitStack() as stack:
            outcome = await attempt_once(call, located, request, stack=stack)
            if not isinstance(outcome, SandfleetError):
                used = msgspec.json.decode(await outcome.read(bytes_max=STATS_BYTES_MAX))
                return json_answer(200, {**used, "status": "running"})
        await call.edge.plane.routes.forget(located.sandbox_id)
        located = await locate_by_row(call.edge, organisation_id, sandbox_id)
    raise NotReady("sandbox cannot be reached at the moment")


async def refresh_token(call: Call) -> Answer:
    """Return a token with a fresh life. A dead sandbox gets none."""
    sandbox = await find_sandbox(call.edge, call.principal.organisation_id, call.values["id"])
    if sandbox.is_terminal:
        raise gone(sandbox)
    token = call.edge.tokens.fresh_sandbox_token(sandbox.organisation_id, sandbox.id)
    return model_answer(200, TokenBody(token=token))


async def allowed_hosts(call: Call) -> Answer:
    """Return what limits where secrets go, in every status. A sandbox has no store here, so nothing does."""
    sandbox = await find_sandbox(call.edge, call.principal.organisation_id, call.values["id"])
    body = AllowedHostsBody(sandbox_id=sandbox.id, egress_allowlist=[], per_secret_allowed_hosts={})
    return model_answer(200, body)


def _nothing_used(sandbox: Sandbox) -> StatsBody:
    return StatsBody(
        cpu_percent=0,
        mem_usage=0,
        mem_limit=0,
        net_input=0,
        net_output=0,
        pids=0,
        status=sandbox.state.value,
    )


ENDPOINTS = (
    Endpoint(
        method="GET",
        paths=data_plane("stats"),
        handler=sandbox_stats,
        summary="What the sandbox uses now; zeros while it is on no worker",
        access=Access.DATA_PLANE,
        answers={200: StatsBody},
        errors=("not_found", "gone", "not_ready", "agent_unresponsive"),
    ),
    Endpoint(
        method="POST",
        paths=data_plane("token/refresh"),
        handler=refresh_token,
        summary="A sandbox token with a fresh life",
        access=Access.DATA_PLANE,
        answers={200: TokenBody},
        errors=("not_found", "gone"),
    ),
    Endpoint(
        method="GET",
        paths=(f"{SANDBOX}/allowed-hosts",),
        handler=allowed_hosts,
        summary="Which hosts the sandbox's secrets may be sent to; without a secret store none is named",
        access=Access.ORGANISATION,
        answers={200: AllowedHostsBody},
        errors=("not_found",),
    ),
)
