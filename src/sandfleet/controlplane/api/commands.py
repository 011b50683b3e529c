"""`…/exec/run`, `…/commands`, `…/exec/run-async` and `…/exec/{execId}/result`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, cast

import msgspec

from sandfleet.controlplane.api.field_values import check_text, checked_envs, invalid
from sandfleet.controlplane.api.paths import data_plane
from sandfleet.controlplane.http.answers import Answer, json_answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import Call, Endpoint
from sandfleet.controlplane.proxy.forward import Forwarding, open_answer
from sandfleet.controlplane.proxy.readiness import locate, wait_until_ready
from sandfleet.model.errors import BadRequest, NotFound, SandfleetError
from sandfleet.model.ids import ExecId, OrganisationId, SandboxId, exec_id
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.ports.coordination import Route
from sandfleet.ports.data_plane import DataPlaneRequest
from sandfleet.wire.public_api import ExecHandle, ExecProgress, ExecResult, RunCommand, format_time
from sandfleet.wire.worker_messages import EXEC_ID_HEADER

TIMEOUT_MAX_S = 86_400
ANSWER_BYTES_MAX = 256 * 1024 * 1024
"""Two streams of 16 MiB, in which JSON may write each byte as six characters, and some more."""
SILENCE_MARGIN_S = 60.0
QUICK_SILENCE_S = 30.0

CommandName = tuple[OrganisationId, SandboxId, ExecId]


def _ids() -> Mapping[str, str]:
    return {"exec_id": exec_id(secrets.token_bytes(16))}


async def run_command(call: Call) -> Answer:
    """Run a command to its end."""
    located = await locate(call.edge, call.principal.organisation_id, call.values["id"])
    fields = _checked(call)
    silence_s = fields["timeout"] + SILENCE_MARGIN_S
    return await _forward(call, located, _start(call, "exec/run", fields, silence_max_s=silence_s))


async def run_command_async(call: Call) -> Answer:
    """Start a command; on a sandbox that is not ready the handle comes at once."""
    located = await locate(call.edge, call.principal.organisation_id, call.values["id"])
    request = _start(call, "exec/run-async", _checked(call), silence_max_s=QUICK_SILENCE_S)
    if not isinstance(located, Sandbox):
        return await _forward(call, located, request)
    name = _name(call, call.fixed["exec_id"])
    call.edge.pending.add(name)
    call.edge.background.start(_start_when_ready(call, located, request, name), name="run-async")
    handle = {
        "execId": name[2],
        "running": True,
        "startedAt": format_time(call.edge.plane.clock.now()),
        "waking": True,
    }
    return json_answer(202, handle)


async def command_result(call: Call) -> Answer:
    """Return the result of a command, or its output so far."""
    located = await locate(call.edge, call.principal.organisation_id, call.values["id"])
    name = _name(call, call.values["sid"])
    failure = call.edge.pending.failure(name)
    if failure is not None:
        return json_answer(200, _never_started(failure))
    if call.edge.pending.is_waiting(name):
        return json_answer(200, {"running": True, "waking": True, "stdout": "", "stderr": ""})
    if isinstance(located, Sandbox) and located.state is SandboxState.CREATING:
        raise NotFound("command not found")
    request = DataPlaneRequest(
        method="GET", target=f"/sandboxes/{name[1]}/exec/{_path_safe(name[2])}/result", headers={}
    )
    return await _forward(call, located, request)


def _path_safe(text: str) -> str:
    if not text.replace("-", "").replace("_", "").isalnum() or not text.isascii():
        raise NotFound("command not found")
    return text


def _name(call: Call, command: str) -> CommandName:
    return (call.principal.organisation_id, SandboxId(call.values["id"]), ExecId(command))


def _checked(call: Call) -> dict[str, Any]:
    """Return the command's fields for the worker, with values checked and defaults filled in."""
    body = cast(RunCommand, call.model)
    if not body.cmd:
        raise BadRequest("cmd is required")
    for text in (body.cmd, body.cwd or "", *(body.args or ())):
        check_text("cmd, args and cwd", text)
    timeout = body.timeout or call.edge.plane.settings.exec_timeout_default_s
    if not 1 <= timeout <= TIMEOUT_MAX_S:
        raise invalid(f"timeout must be between 1 and {TIMEOUT_MAX_S}")
    fields: dict[str, Any] = {"cmd": body.cmd, "timeout": timeout}
    if body.args:
        fields["args"] = body.args
    if body.cwd:
        fields["cwd"] = body.cwd
    envs = checked_envs(body.envs)
    if envs:
        fields["envs"] = envs
    return fields


def _start(call: Call, suffix: str, fields: Mapping[str, Any], *, silence_max_s: float) -> DataPlaneRequest:
    return DataPlaneRequest(
        method="POST",
        target=f"/sandboxes/{call.values['id']}/{suffix}",
        headers={"Content-Type": "application/json", EXEC_ID_HEADER: call.fixed["exec_id"]},
        body=msgspec.json.encode(fields),
        silence_max_s=silence_max_s,
    )


async def _forward(call: Call, located: Route | Sandbox, request: DataPlaneRequest) -> Answer:
    """Pass on; the exec's id lets a repeated request join the command instead of running it twice."""
    async with AsyncExitStack() as stack:
        answer = await open_answer(call, located, Forwarding(make=lambda: request), stack=stack)
        body = await answer.read(bytes_max=ANSWER_BYTES_MAX)
        return Answer(answer.status, body)


async def _start_when_ready(
    call: Call, sandbox: Sandbox, request: DataPlaneRequest, name: CommandName
) -> None:
    failure: SandfleetError | None = None
    try:
        route = await wait_until_ready(call.edge, sandbox, seconds=call.edge.plane.settings.sandbox_wait_s)
        await _forward(call, route, request)
    except SandfleetError as error:
        failure = error
    finally:
        call.edge.pending.end(name, failure=failure)


def _never_started(failure: SandfleetError) -> dict[str, Any]:
    return {
        "running": False,
        "exitCode": -1,
        "stdout": "",
        "stderr": "",
        "error": failure.message,
        "code": failure.code,
    }


_ERRORS = (
    "not_found",
    "gone",
    "invalid_argument",
    "exec_failed",
    "not_ready",
    "agent_unresponsive",
)

ENDPOINTS = (
    Endpoint(
        method="POST",
        paths=(*data_plane("exec/run"), *data_plane("commands")),
        handler=run_command,
        summary="Run a command and wait for its end; the body may begin with spaces",
        access=Access.DATA_PLANE,
        body=RunCommand,
        answers={200: ExecResult},
        errors=_ERRORS,
        changes=True,
        fixes=_ids,
        resumes=True,
        is_padded=True,
    ),
    Endpoint(
        method="POST",
        paths=data_plane("exec/run-async"),
        handler=run_command_async,
        summary="Start a command; finished within 400 ms: its result, else a handle",
        access=Access.DATA_PLANE,
        body=RunCommand,
        answers={200: ExecResult, 202: ExecHandle},
        errors=_ERRORS,
        changes=True,
        fixes=_ids,
        resumes=True,
    ),
    Endpoint(
        method="GET",
        paths=data_plane("exec/{sid}/result"),
        handler=command_result,
        summary="The result of a command, or its output so far",
        access=Access.DATA_PLANE,
        answers={200: ExecProgress},
        errors=("not_found", "gone", "not_ready", "agent_unresponsive"),
    ),
)
