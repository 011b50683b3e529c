"""`…/preview`: records of guest ports, and the token that their gate asks for."""

from __future__ import annotations

import re
import secrets
from dataclasses import replace
from typing import Any, cast

from sandfleet.controlplane.api.field_values import invalid
from sandfleet.controlplane.api.paths import SANDBOX
from sandfleet.controlplane.http.answers import Answer, list_answer, model_answer, no_content
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import LIST_PARAMETERS, Call, Endpoint
from sandfleet.controlplane.http.paging import page_of
from sandfleet.controlplane.proxy.preview_gate import (
    PORT_MAX,
    TOKEN_LENGTH_MAX,
    TOKEN_LENGTH_MIN,
    digest_of,
    first_token,
    new_token,
)
from sandfleet.controlplane.proxy.readiness import find_sandbox, gone
from sandfleet.model.errors import BadRequest, NotFound, NotReady, StaleVersion
from sandfleet.model.ids import record_uuid
from sandfleet.model.preview import Preview
from sandfleet.wire.public_sandbox import CreatePreview, PreviewBody, PreviewTokenBody

SAVE_ATTEMPTS_MAX = 20
TOKEN_CHOSEN_HERE = "auto"  # noqa: S105 -- a word of the API
_HOST_NAME = re.compile(r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}", re.IGNORECASE)


async def create_preview(call: Call) -> Answer:
    """Record a port; the same port again is the same record."""
    body = cast(CreatePreview, call.model)
    if body.port is None:
        raise BadRequest("port is required")
    if not 1 <= body.port <= PORT_MAX:
        raise BadRequest(f"port must be between 1 and {PORT_MAX}")
    if body.domain and not _HOST_NAME.fullmatch(body.domain):
        raise invalid("domain must be a host name")
    sandbox = await find_sandbox(call.edge, call.principal.organisation_id, call.values["id"])
    if sandbox.is_terminal:
        raise gone(sandbox)
    preview, is_new = await call.edge.plane.stores.previews.add(
        Preview(
            id=record_uuid(secrets.token_bytes(16)),
            organisation_id=sandbox.organisation_id,
            sandbox_id=sandbox.id,
            port=body.port,
            created_at=call.edge.plane.clock.now(),
            custom_hostname=body.domain.lower() if body.domain else None,
            auth_config=body.auth_config or {},
        )
    )
    return model_answer(201 if is_new else 200, _body(call, preview))


async def list_previews(call: Call) -> Answer:
    """Return the records, in every status."""
    sandbox = await find_sandbox(call.edge, call.principal.organisation_id, call.values["id"])
    found = await call.edge.plane.stores.previews.list(sandbox.organisation_id, sandbox.id)
    page, headers = page_of(call, found, place=lambda one: (one.created_at, one.id))
    return list_answer([_body(call, preview) for preview in page], headers=headers)


async def delete_preview(call: Call) -> Answer:
    """Remove the record of a port."""
    sandbox = await find_sandbox(call.edge, call.principal.organisation_id, call.values["id"])
    port = call.values["port"]
    if not port.isdecimal() or not port.isascii() or not 1 <= int(port[:6]) <= PORT_MAX:
        raise NotFound("no such preview")
    await call.edge.plane.stores.previews.remove(sandbox.organisation_id, sandbox.id, int(port))
    return no_content()


async def rotate_token(call: Call) -> Answer:
    """Close the gate with a new token; the old one opens nothing from now on."""
    store, clock = call.edge.plane.stores.sandboxes, call.edge.plane.clock
    token = new_token()
    for _ in range(SAVE_ATTEMPTS_MAX):
        sandbox = await find_sandbox(call.edge, call.principal.organisation_id, call.values["id"])
        if sandbox.is_terminal:
            raise gone(sandbox)
        changed = replace(
            sandbox, preview_digest=digest_of(token), changed_at=clock.now(), version=sandbox.version + 1
        )
        try:
            await store.save(changed, None)
        except StaleVersion:
            continue
        return model_answer(200, PreviewTokenBody(preview_auth_token=token, scheme="bearer"))
    raise NotReady("the sandbox is changing too fast")


def asked_token(call: Call, wanted: Any, *, sandbox_id: str) -> str | None:
    """Return the token that a create's `previewAuth` sets, None without a gate."""
    if not wanted:
        return None
    if not isinstance(wanted, dict):
        raise BadRequest("previewAuth must be an object")
    if wanted.get("scheme", "bearer") != "bearer":
        raise invalid("previewAuth.scheme must be bearer")
    token = wanted.get("token") or TOKEN_CHOSEN_HERE
    if token == TOKEN_CHOSEN_HERE:
        return first_token(call.edge.plane.settings.master_secret.get_secret_value(), sandbox_id)
    if not isinstance(token, str) or not TOKEN_LENGTH_MIN <= len(token) <= TOKEN_LENGTH_MAX:
        raise invalid(f"previewAuth.token must be `auto` or have at least {TOKEN_LENGTH_MIN} characters")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise invalid("previewAuth.token must consist of visible ASCII characters")
    return token


def _body(call: Call, preview: Preview) -> PreviewBody:
    domain = call.edge.plane.settings.sandbox_domain
    return PreviewBody(
        id=preview.id,
        sandbox_id=preview.sandbox_id,
        org_id=preview.organisation_id,
        hostname=f"{preview.sandbox_id}-p{preview.port}.{domain}",
        custom_hostname=preview.custom_hostname,
        port=preview.port,
        ssl_status="active",
        auth_config=dict(preview.auth_config),
        created_at=preview.created_at,
    )


PREVIEW = f"{SANDBOX}/preview"
ENDPOINTS = (
    Endpoint(
        method="POST",
        paths=(PREVIEW,),
        handler=create_preview,
        summary="Record a guest port and get its host name",
        access=Access.ORGANISATION,
        body=CreatePreview,
        answers={201: PreviewBody, 200: PreviewBody},
        errors=("not_found", "gone", "invalid_argument"),
        changes=True,
    ),
    Endpoint(
        method="GET",
        paths=(PREVIEW,),
        handler=list_previews,
        summary="The recorded ports, newest first",
        access=Access.ORGANISATION,
        answers={200: list[PreviewBody]},
        errors=("not_found", "invalid_argument"),
        parameters=LIST_PARAMETERS,
    ),
    Endpoint(
        method="DELETE",
        paths=(f"{PREVIEW}/{{port}}",),
        handler=delete_preview,
        summary="Remove the record of a port",
        access=Access.ORGANISATION,
        answers={204: None},
        errors=("not_found",),
    ),
    Endpoint(
        method="POST",
        paths=(f"{PREVIEW}/rotate",),
        handler=rotate_token,
        summary="Have previews ask for a new token; the old one dies at once",
        access=Access.ORGANISATION,
        answers={200: PreviewTokenBody},
        errors=("not_found", "gone", "not_ready"),
        changes=True,
    ),
)
