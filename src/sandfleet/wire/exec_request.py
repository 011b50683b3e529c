"""The body of `exec/run` and `exec/run-async`, checked once for both sides of the proxy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sandfleet.model.errors import BadRequest
from sandfleet.wire import json_fields

TIMEOUT_MAX_S = 86400
SHELL = ("/bin/sh", "-c")
_EXEC_ID = re.compile(r"[a-z0-9-]{8,64}")


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """One command, ready to run."""

    argv: Sequence[str]
    envs: Mapping[str, str]
    cwd: str | None
    timeout_s: int


def parse_exec_request(body: bytes, *, timeout_default_s: int) -> ExecRequest:
    """Return the request, or raise BadRequest for what is wrong with it."""
    return exec_request(json_fields.json_object(body), timeout_default_s=timeout_default_s)


def exec_request(fields: Mapping[str, object], *, timeout_default_s: int) -> ExecRequest:
    """Return the request of an already decoded body."""
    command = json_fields.text(fields, "cmd")
    if not command:
        raise BadRequest("cmd is required")
    arguments = json_fields.texts(fields, "args")
    return ExecRequest(
        argv=(command, *arguments) if arguments else (*SHELL, command),
        envs=environment(fields),
        cwd=json_fields.text(fields, "cwd") or None,
        timeout_s=_timeout(fields, timeout_default_s),
    )


def valid_exec_id(value: str) -> str:
    """Return the id, or raise BadRequest if it has not the form of a session id."""
    if _EXEC_ID.fullmatch(value) is None:
        raise BadRequest("an exec id is 8 to 64 characters of [a-z0-9-]")
    return value


def environment(fields: Mapping[str, object]) -> Mapping[str, str]:
    """Return the variables of a request."""
    environment = json_fields.text_map(fields, "envs")
    if any(not name or "=" in name for name in environment):
        raise BadRequest("a name in envs must not be empty or contain '='")
    return environment


def _timeout(fields: Mapping[str, object], default_s: int) -> int:
    timeout = json_fields.integer(fields, "timeout") or default_s
    if timeout < 0:
        raise BadRequest("timeout must be zero or positive", code="invalid_argument")
    if timeout > TIMEOUT_MAX_S:
        raise BadRequest(f"timeout must be at most {TIMEOUT_MAX_S} seconds", code="invalid_argument")
    return timeout
