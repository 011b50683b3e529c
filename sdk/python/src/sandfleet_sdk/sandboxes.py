"""Operations on sandboxes, written once as flows."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from sandfleet_sdk.calls import Call, Flow, Pause, path_of
from sandfleet_sdk.errors import ApiError
from sandfleet_sdk.models import Event, Sandbox

_POLL_S = 0.5
_TERMINAL = frozenset({"stopped", "failed", "error"})


def idempotency(key: str | None = None) -> dict[str, str]:
    """Return the header that makes a POST safe to repeat: with a key of the caller's own, or a new one."""
    return {"Idempotency-Key": key or uuid.uuid4().hex}


def without_none(**fields: Any) -> dict[str, Any]:
    """Return the fields that were given."""
    return {name: value for name, value in fields.items() if value is not None}


def create(  # noqa: PLR0913 -- one argument per field of the API's create
    *,
    template: str | None = None,
    timeout_s: int | None = None,
    memory_mib: int | None = None,
    cpu_count: int | None = None,
    disk_mib: int | None = None,
    envs: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
    alias: str | None = None,
    network: bool | None = None,
    idempotency_key: str | None = None,
    wait_s: float = 120.0,
) -> Flow[Sandbox]:
    """Create a sandbox and return it running; `wait_s` bounds the wait for one that is slow to start.

    Whoever repeats a create within a day under the same `idempotency_key`, from whatever process,
    gets the same sandbox. Without one, only the repeats of this call are protected.
    """
    body = without_none(
        templateID=template,
        timeout=timeout_s,
        memoryMB=memory_mib,
        cpuCount=cpu_count,
        diskMB=disk_mib,
        envs=envs,
        metadata=metadata,
        alias=alias,
        networkEnabled=network,
    )
    answer = yield Call(method="POST", path="/sandboxes", payload=body, headers=idempotency(idempotency_key))
    sandbox = Sandbox.parse(answer.object())
    for _ in range(int(wait_s / _POLL_S)):
        if sandbox.status != "creating":
            break
        yield Pause(_POLL_S)
        sandbox = yield from get(sandbox.id)
    if sandbox.status in _TERMINAL:
        raise ApiError(
            f"sandbox {sandbox.id} {sandbox.status}: {sandbox.error or 'no reason given'}",
            status=200,
            code=sandbox.status,
        )
    return sandbox


def get(sandbox_id: str) -> Flow[Sandbox]:
    """Return one sandbox, in whatever status it is."""
    answer = yield Call(method="GET", path=path_of("sandboxes", sandbox_id))
    return Sandbox.parse(answer.object())


def list_sandboxes(
    *, status: Iterable[str] | None = None, alias: str | None = None, limit: int = 100
) -> Flow[list[Sandbox]]:
    """Return up to `limit` sandboxes, newest first; `status` may hold `all`."""
    query = without_none(
        status=",".join(status) if status is not None else None, alias=alias, limit=str(limit)
    )
    answer = yield Call(method="GET", path="/sandboxes", query=query)
    return [Sandbox.parse(entry) for entry in answer.array()]


def kill(sandbox_id: str) -> Flow[None]:
    """End a sandbox for good; one that has ended already is no error."""
    yield Call(method="DELETE", path=path_of("sandboxes", sandbox_id))


def set_timeout(sandbox_id: str, timeout_s: int) -> Flow[None]:
    """Set after how many idle seconds the sandbox ends; 0 is never."""
    yield Call(
        method="POST", path=path_of("sandboxes", sandbox_id, "timeout"), payload={"timeout": timeout_s}
    )


def events(sandbox_id: str, *, limit: int = 100) -> Flow[list[Event]]:
    """Return the sandbox's own log of changes, newest first."""
    answer = yield Call(
        method="GET", path=path_of("sandboxes", sandbox_id, "events"), query={"limit": str(limit)}
    )
    return [Event.parse(entry) for entry in answer.array()]
