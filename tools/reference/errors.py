"""The page of error codes: those that the API answers with, and those that only the fleet's own logs know."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from sandfleet.controlplane.http.error_codes import CODES
from sandfleet.controlplane.http.operation_errors import TOLD_AS
from sandfleet.model import errors

_INTRODUCTION = """\
<!-- Made by tools/write_reference.py. Do not edit. -->

# Errors

Every error answer has the body `{"error": text, "code": code, "requestId": id}`, some with `details`.
Decide by `code`; `error` is a sentence for people, and may change. Answers with status 503 carry
`Retry-After` in seconds. A request that is repeated under its `Idempotency-Key` is done once.

## What the API answers

Which of them a route may answer is in `/openapi.json`, beside each status, as `x-error-codes`.
"""

_INTERNAL = """\

## What only the fleet says of itself

Workers, stores and operations have codes of their own. They are found in logs and between the fleet's
processes; a client is told of the same thing by the code in the second column.
"""

_REMEDIES: Mapping[str, str] = MappingProxyType(
    {
        "checkpoint_limit": "delete one that is no longer needed",
        "checkpoint_failed": "take another checkpoint; the reason is in `error`",
        "missing_api_key": "send `X-API-Key`",
        "preview_token": "send the preview's token",
        "invalid_token": "fetch the sandbox again, or refresh the token: the answer has a new one",
        "signature_expired": "have a new URL signed",
        "name_taken": "choose another name",
        "operation_in_progress": "repeat it in a moment",
        "checkpoint_not_ready": "repeat it when the checkpoint's `status` is `ready`",
        "guest_disk_full": "free space in the sandbox; it runs on",
        "idempotency_key_reused": "use a new key for a new request",
        "idempotency_answer_too_large": "read what the first request made; it was done",
        "rollout_under_way": "wait for its end, or cancel it",
        "rollout_over": "begin another one, of the version that is wanted",
        "version_runs": "nothing: read the roll-outs",
        "worker_not_empty": "end or hibernate what is there",
        "worker_alive": "end its process first",
        "not_hibernated": "read its `status`: there may be nothing to do",
        "oom_floor": "have the guest use less, or ask for more",
        "not_running": "wake it, or read its `status`",
        "gone": "create another one, or fork its checkpoint",
        "too_large": "send less, or in parts",
        "offset_gone": "go on from `oldest`",
        "quota_exceeded": "end something, or have the quota raised",
        "rate_limited": "repeat it after `Retry-After`, or have the rate raised",
        "scaling_locked": "unlock it with `PUT …/scaling-lock`, if it is yours to unlock",
        "plan_limit": "ask for less, or have the cap raised",
        "disk_limit": "ask for less, or have the cap raised",
        "internal": "report it with the `requestId`; the server's log has the rest",
        "not_available": "ask the operator to configure it",
        "port_closed": "start what should listen, on all addresses",
        "agent_unresponsive": "repeat it; power-cycle the sandbox if that does not help",
        "disk_full": "free space in the sandbox",
    }
)
_REMEDY_BY_STATUS: Mapping[int, str] = MappingProxyType(
    {
        400: "change the request",
        403: "use a credential that may",
        404: "check the id, the path and whose key it is",
        405: "use a method that `Allow` names",
        503: "repeat it after `Retry-After`",
    }
)
_WITHOUT_CLASS: Mapping[str, str] = MappingProxyType(
    {
        "busy": "The worker is at other work on the sandbox.",
        "cancelled": "A kill came first.",
        "deadline_exceeded": "The operation did not end in time.",
        "worker_gone": "The worker's host is no more, by somebody's word.",
    }
)


def errors_page() -> str:
    """Return the page."""
    public = ["| HTTP | code | meaning | what to do |", "|---|---|---|---|", *map(_public_row, _by_status())]
    internal = ["| code | the API's word | meaning |", "|---|---|---|", *map(_internal_row, sorted(TOLD_AS))]
    return _INTRODUCTION + "\n" + "\n".join(public) + "\n" + _INTERNAL + "\n" + "\n".join(internal) + "\n"


def _by_status() -> list[str]:
    return sorted(CODES, key=lambda code: (CODES[code][0], code))


def _public_row(code: str) -> str:
    status, meaning = CODES[code]
    meaning = meaning.removesuffix("; `Retry-After`")
    remedy = _REMEDIES.get(code) or _REMEDY_BY_STATUS[status]
    return f"| {status} | `{code}` | {meaning} | {remedy} |"


def _internal_row(code: str) -> str:
    kind = next((one for one in _kinds(errors.SandfleetError) if one.code == code), None)
    meaning = (inspect.getdoc(kind) or "").splitlines()[0] if kind else _WITHOUT_CLASS[code]
    return f"| `{code}` | `{TOLD_AS[code]}` | {meaning} |"


def _kinds(base: type[errors.SandfleetError]) -> Iterator[type[errors.SandfleetError]]:
    for kind in base.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield kind
        yield from _kinds(kind)
