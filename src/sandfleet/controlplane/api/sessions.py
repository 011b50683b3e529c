"""`…/exec`, `…/exec/{sid}`, `…/pty` and what belongs to them: sessions and terminals."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import msgspec

from sandfleet.controlplane.api.field_values import checked_envs
from sandfleet.controlplane.api.paths import data_plane
from sandfleet.controlplane.http.answers import Answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import Call, Endpoint, Parameter
from sandfleet.controlplane.proxy.forward import Forwarding, open_answer
from sandfleet.controlplane.proxy.readiness import locate
from sandfleet.controlplane.proxy.session_socket import serve_session
from sandfleet.model.errors import NotFound, SandfleetError
from sandfleet.model.ids import exec_id
from sandfleet.ports.data_plane import DataPlaneRequest
from sandfleet.wire.exec_request import valid_exec_id
from sandfleet.wire.public_sessions import (
    KillSession,
    ResizeTerminal,
    Session,
    StartSession,
    StartTerminal,
    Terminal,
)
from sandfleet.wire.session_request import (
    offset_from,
    scrollback_from,
    session_request,
    signal_of,
    size_of,
    terminal_request,
)
from sandfleet.wire.worker_messages import EXEC_ID_HEADER

ANSWER_BYTES_MAX = 64 * 1024 * 1024
Check = Callable[[Mapping[str, Any]], object]
Handler = Callable[[Call], Awaitable[Answer]]


def _ids() -> Mapping[str, str]:
    return {"exec_id": exec_id(secrets.token_bytes(16))}


def _passed_on(suffix: str, *, check: Check | None = None) -> Handler:
    """Return a handler that looks at the body's values and lets the worker do the work."""

    async def handle(call: Call) -> Answer:
        located = await locate(call.edge, call.principal.organisation_id, call.values["id"])
        fields = {} if call.model is None else call.model.model_dump(by_alias=True, exclude_none=True)
        if check is not None:
            check(fields)
        # They only matter to an upgrade, but a wrong value is never taken for none.
        offset_from(call.query.get("offset"))
        scrollback_from(call.query.get("scrollback"))
        path = suffix.format(sid=_session_id(call)) if "{sid}" in suffix else suffix
        headers = {"Content-Type": "application/json"}
        if "exec_id" in call.fixed:
            headers[EXEC_ID_HEADER] = str(call.fixed["exec_id"])
        request = DataPlaneRequest(
            method=call.endpoint.method,
            target=f"/sandboxes/{call.values['id']}/{path}",
            headers=headers,
            body=msgspec.json.encode(fields) if call.endpoint.body is not None else None,
        )
        async with AsyncExitStack() as stack:
            answer = await open_answer(call, located, Forwarding(make=lambda: request), stack=stack)
            body = await answer.read(bytes_max=ANSWER_BYTES_MAX)
            return Answer(answer.status, body) if body else Answer(answer.status, media_type=None)

    return handle


def _session_id(call: Call) -> str:
    try:
        return valid_exec_id(call.values["sid"])
    except SandfleetError:
        raise NotFound("no such session in this sandbox") from None


def _check_session(fields: Mapping[str, Any]) -> None:
    session_request(fields)
    checked_envs(fields.get("envs"))


def _check_terminal(fields: Mapping[str, Any]) -> None:
    size_of(fields)
    terminal_request(fields)
    checked_envs(fields.get("envs"))


_ERRORS = ("not_found", "gone", "not_ready", "agent_unresponsive")


def _endpoint(method: str, path: str, summary: str, *, answers: Mapping[int, Any], **more: Any) -> Endpoint:
    check, errors = more.pop("check", None), more.pop("errors", ())
    return Endpoint(
        method=method,
        paths=data_plane(path),
        handler=_passed_on(path, check=check),
        summary=summary,
        access=Access.DATA_PLANE,
        answers=answers,
        errors=(*_ERRORS, *errors),
        **more,
    )


_STARTS: Mapping[str, Any] = {
    "changes": True,
    "fixes": _ids,
    "resumes": True,
    "errors": ("invalid_argument", "exec_failed"),
}
_OFFSET = Parameter(
    "offset",
    "with `Upgrade: websocket`: replay from exactly this byte of the output on",
    schema={"type": "integer", "minimum": 0},
)
_SCROLLBACK = Parameter(
    "scrollback",
    "with `Upgrade: websocket`: how many bytes of old output come first",
    schema={"type": "integer", "minimum": 0},
)

ENDPOINTS = (
    _endpoint(
        "POST",
        "exec",
        "Start a program as a session",
        answers={201: Session},
        body=StartSession,
        check=_check_session,
        **_STARTS,
    ),
    _endpoint("GET", "exec", "List sessions, running and finished", answers={200: list[Session]}),
    _endpoint(
        "GET",
        "exec/{sid}",
        "One session; with `Upgrade: websocket` attach to it",
        answers={200: Session},
        parameters=(_OFFSET,),
        errors=("offset_gone",),
    ),
    _endpoint(
        "POST",
        "exec/{sid}/kill",
        "Signal a session",
        answers={204: None},
        body=KillSession,
        check=signal_of,
        changes=True,
        errors=("invalid_argument",),
    ),
    _endpoint(
        "POST",
        "pty",
        "Start a shell in a terminal; attach by `GET …/pty/{sid}` with `Upgrade: websocket`",
        answers={201: Terminal},
        body=StartTerminal,
        check=_check_terminal,
        **_STARTS,
    ),
    _endpoint(
        "GET",
        "pty/{sid}",
        "How a terminal stands; with `Upgrade: websocket` attach to it",
        answers={200: Session},
        parameters=(_OFFSET, _SCROLLBACK),
        errors=("offset_gone",),
    ),
    _endpoint(
        "POST",
        "pty/{sid}/resize",
        "Tell a terminal its new size",
        answers={200: None},
        body=ResizeTerminal,
        check=size_of,
        changes=True,
        errors=("invalid_argument",),
    ),
    _endpoint("DELETE", "pty/{sid}", "End a terminal", answers={204: None}),
)

SOCKETS: Mapping[str, Callable[[Call], Awaitable[None]]] = {
    **{path: lambda call: serve_session(call, kind="exec") for path in data_plane("exec/{sid}")},
    **{path: lambda call: serve_session(call, kind="pty") for path in data_plane("pty/{sid}")},
}
