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
from sandfleet.controlplane.proxy.pending import QUICK_SILENCE_S, accept
from sandfleet.controlplane.proxy.readiness import locate
from sandfleet.model.errors import BadRequest, NotFound
from sandfleet.model.ids import ExecId, SandboxId, exec_id
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.ports.coordination import Route
from sandfleet.ports.data_plane import DataPlaneRequest
from sandfleet.ports.pending_commands import PendingCommand
from sandfleet.wire.public_api import ExecHandle, ExecProgress, ExecResult, RunCommand, format_time
from sandfleet.wire.worker_messages import EXEC_ID_HEADER

TIMEOUT_MAX_S = 86_400
ANSWER_BYTES_MAX = 256 * 1024 * 1024
"""Two streams of 16 MiB, in which JSON may write each byte as six characters, and some more."""
SILENCE_MARGIN_S = 60.0
DEADLINE_WAITS = 2
"""A command that waits is given up after so many times `sandbox_wait_s`, whichever replicas die."""


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
    fields = _checked(call)
    request = _start(call, "exec/run-async", fields, silence_max_s=QUICK_SILENCE_S)
    if not isinstance(located, Sandbox):
        return await _forward(call, located, request)
    command = PendingCommand(
        organisation_id=located.organisation_id,
        sandbox_id=located.id,
        exec_id=ExecId(call.fixed["exec_id"]),
        body=msgspec.json.encode(fields),
        remaining_s=call.edge.plane.settings.sandbox_wait_s * DEADLINE_WAITS,
    )
    await accept(call.edge, command, request_id=call.request_id)
    handle = {
        "execId": command.exec_id,
        "running": True,
        "startedAt": format_time(call.edge.plane.clock.now()),
        "waking": True,
    }
    return json_answer(202, handle)


async def command_result(call: Call) -> Answer:
    """Return the result of a command, or its output so far."""
    located = await locate(call.edge, call.principal.organisation_id, call.values["id"])
    if isinstance(located, Sandbox):
        pending = await _pending_result(call)
        if pending is not None:
            return pending
        if located.state is SandboxState.CREATING:
            raise NotFound("command not found")
    try:
        return await _forward(call, located, _result_request(call))
    except NotFound:
        pending = await _pending_result(call)
        if pending is not None:
            return pending
    # It may have been started between the two looks.
    return await _forward(call, located, _result_request(call))


def _result_request(call: Call) -> DataPlaneRequest:
    target = f"/sandboxes/{call.values['id']}/exec/{_path_safe(call.values['sid'])}/result"
    return DataPlaneRequest(method="GET", target=target, headers={})


async def _pending_result(call: Call) -> Answer | None:
    """Return the result of a command that its sandbox does not have yet, or never will."""
    command = await call.edge.plane.stores.commands.find(
        call.principal.organisation_id, SandboxId(call.values["id"]), _path_safe(call.values["sid"])
    )
    if command is None:
        return None
    if command.failure_code is None:
        return json_answer(200, {"running": True, "waking": True, "stdout": "", "stderr": ""})
    return json_answer(200, _never_started(command))


def _path_safe(text: str) -> str:
    if not text.replace("-", "").replace("_", "").isalnum() or not text.isascii():
        raise NotFound("command not found")
    return text


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


def _never_started(command: PendingCommand) -> dict[str, Any]:
    return {
        "running": False,
        "exitCode": -1,
        "stdout": "",
        "stderr": "",
        "error": command.failure_message,
        "code": command.failure_code,
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
