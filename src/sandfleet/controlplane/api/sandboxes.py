"""`/api/sandboxes`: get, list, kill, timeout."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from sandfleet.controlplane.api.create_sandbox import ENDPOINTS as CREATE
from sandfleet.controlplane.api.field_values import check_text, checked_timeout, invalid
from sandfleet.controlplane.api.paths import SANDBOX, data_plane
from sandfleet.controlplane.api.sandbox_view import sandbox_json
from sandfleet.controlplane.http.answers import Answer, array_answer, no_content
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import LIST_PARAMETERS, Call, Endpoint, Parameter
from sandfleet.controlplane.http.paging import decode_cursor, first_of_rest, page_limit
from sandfleet.controlplane.proxy.readiness import find_sandbox, gone
from sandfleet.model.errors import BadRequest, NotReady, StaleVersion
from sandfleet.model.ids import SandboxId
from sandfleet.model.sandbox import LISTED_STATES, SandboxState
from sandfleet.ports.stores import SandboxFilter
from sandfleet.wire.public_api import SandboxBody, SetTimeout

SAVE_ATTEMPTS_MAX = 20

_STATUS_SCHEMA = {"type": "string", "enum": ["all", *[state.value for state in SandboxState]]}
_ALIAS_SCHEMA = {"type": "string", "pattern": "^[^\\u0000]*$"}


async def get_sandbox(call: Call) -> Answer:
    """Return the object, in every status."""
    sandbox = await find_sandbox(call.edge, call.principal.organisation_id, call.values["id"])
    return Answer(200, sandbox_json(call, sandbox))


async def list_sandboxes(call: Call) -> Answer:
    """Return a page, newest first."""
    limit = page_limit(call.query)
    cursor = decode_cursor(call.query.get("cursor"))
    alias = call.query.get("alias")
    if alias is not None:
        check_text("alias", alias)
    found = await call.edge.plane.stores.sandboxes.list(
        call.principal.organisation_id,
        SandboxFilter(
            states=_states(call.query.get("status")),
            alias=alias,
            limit=limit + 1,
            cursor=(cursor[0], SandboxId(cursor[1])) if cursor else None,
        ),
    )
    page, headers = first_of_rest(call, found, limit=limit, place=lambda one: (one.created_at, one.id))
    return array_answer([sandbox_json(call, sandbox) for sandbox in page], headers=headers)


def _states(text: str | None) -> frozenset[SandboxState] | None:
    if text is None or not text.strip():
        return LISTED_STATES
    names = {name.strip() for name in text.split(",")}
    if "all" in names:
        return None
    try:
        return frozenset(SandboxState(name) for name in names)
    except ValueError as error:
        raise invalid("status must be `all` or a comma list of statuses") from error


async def kill_sandbox(call: Call) -> Answer:
    """End the sandbox; a dead one is 204 again."""
    sandbox = await find_sandbox(call.edge, call.principal.organisation_id, call.values["id"])
    if not sandbox.is_terminal:
        await call.edge.lifecycle.kill(sandbox, actor=call.principal.actor)
    return no_content()


async def set_timeout(call: Call) -> Answer:
    """Store a new idle timeout; the idle timer starts again."""
    body = cast(SetTimeout, call.model)
    await store_timeout(call, body.timeout)
    return no_content()


async def store_timeout(call: Call, timeout: int | None) -> None:
    """Write the idle timeout whatever else happens to the row; it wakes nobody."""
    store = call.edge.plane.stores.sandboxes
    for _ in range(SAVE_ATTEMPTS_MAX):
        sandbox = await find_sandbox(call.edge, call.principal.organisation_id, call.values["id"])
        if sandbox.is_terminal:
            raise gone(sandbox)
        if timeout is None:
            raise BadRequest("timeout is required")
        now = call.edge.plane.clock.now()
        changed = replace(
            sandbox, timeout_s=checked_timeout(timeout), changed_at=now, version=sandbox.version + 1
        )
        try:
            await store.touch({sandbox.id: now})
            await store.save(changed, None)
        except StaleVersion:
            continue
        return
    raise NotReady("the sandbox is changing too fast")


ENDPOINTS = (
    *CREATE,
    Endpoint(
        method="GET",
        paths=("/api/sandboxes",),
        handler=list_sandboxes,
        summary="List sandboxes, newest first",
        access=Access.ORGANISATION,
        answers={200: list[SandboxBody]},
        errors=("invalid_argument",),
        parameters=(
            Parameter("status", "comma list of statuses, or `all`", schema=_STATUS_SCHEMA),
            Parameter("alias", "only sandboxes with this alias", schema=_ALIAS_SCHEMA),
            *LIST_PARAMETERS,
        ),
    ),
    Endpoint(
        method="GET",
        paths=(SANDBOX,),
        handler=get_sandbox,
        summary="Get a sandbox, in every status",
        access=Access.ORGANISATION,
        answers={200: SandboxBody},
        errors=("not_found",),
    ),
    Endpoint(
        method="DELETE",
        paths=(SANDBOX,),
        handler=kill_sandbox,
        summary="Kill a sandbox; works from every status and wins every race",
        access=Access.ORGANISATION,
        answers={204: None},
        errors=("not_found",),
    ),
    Endpoint(
        method="POST",
        paths=data_plane("timeout"),
        handler=set_timeout,
        summary="Set the idle timeout",
        access=Access.DATA_PLANE,
        body=SetTimeout,
        answers={204: None},
        errors=("not_found", "gone", "invalid_argument", "not_ready"),
        changes=True,
    ),
)
