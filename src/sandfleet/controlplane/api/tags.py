"""`…/tags` of a sandbox, and `/api/tags`: which keys an organisation uses."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import cast

from sandfleet.controlplane.api.field_values import check_text, invalid, without_null
from sandfleet.controlplane.api.paths import SANDBOX
from sandfleet.controlplane.http.answers import Answer, model_answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import Call, Endpoint
from sandfleet.controlplane.proxy.readiness import find_sandbox
from sandfleet.model.errors import NotReady, StaleVersion
from sandfleet.model.sandbox import Sandbox
from sandfleet.wire.public_sandbox import ReplaceTags, TagKey, TagKeys, TagsBody

TAGS_MAX = 50
VALUE_MAX = 256
RESERVED_PREFIX = "oc:"
SAVE_ATTEMPTS_MAX = 20
_KEY = re.compile(r"[A-Za-z0-9_.\-:]{1,128}")


async def get_tags(call: Call) -> Answer:
    """Return the tags, in every status."""
    sandbox = await find_sandbox(call.edge, call.principal.organisation_id, call.values["id"])
    return model_answer(200, _body(sandbox))


async def put_tags(call: Call) -> Answer:
    """Replace all tags, in every status."""
    store, clock = call.edge.plane.stores.sandboxes, call.edge.plane.clock
    for _ in range(SAVE_ATTEMPTS_MAX):
        sandbox = await find_sandbox(call.edge, call.principal.organisation_id, call.values["id"])
        tags = checked_tags(cast(ReplaceTags, call.model).tags)
        changed = replace(sandbox, tags=tags, tags_changed_at=clock.now(), version=sandbox.version + 1)
        try:
            await store.save(changed, None)
        except StaleVersion:
            continue
        return model_answer(200, _body(changed))
    raise NotReady("the sandbox is changing too fast")


async def list_tag_keys(call: Call) -> Answer:
    """Return every key in use, by name."""
    found = await call.edge.plane.stores.tags.keys(call.principal.organisation_id)
    keys = [
        TagKey(key=use.key, sandbox_count=use.sandbox_count, value_count=use.value_count) for use in found
    ]
    return model_answer(200, TagKeys(keys=keys))


def checked_tags(given: dict[str, str | None]) -> dict[str, str]:
    """Return the tags, or say which rule one of them breaks."""
    tags = without_null(given)
    if len(tags) > TAGS_MAX:
        raise invalid(f"a sandbox has at most {TAGS_MAX} tags")
    for key, value in tags.items():
        if not _KEY.fullmatch(key):
            raise invalid("tag keys must match [A-Za-z0-9_.-:]{1,128}")
        if key.startswith(RESERVED_PREFIX):
            raise invalid(f"tag keys must not begin with {RESERVED_PREFIX}")
        if len(value) > VALUE_MAX:
            raise invalid(f"tag values have at most {VALUE_MAX} characters")
        check_text("tags", value)
    return tags


def _body(sandbox: Sandbox) -> TagsBody:
    return TagsBody(tags=dict(sandbox.tags), tags_last_updated_at=sandbox.tags_changed_at)


ENDPOINTS = (
    Endpoint(
        method="GET",
        paths=(f"{SANDBOX}/tags",),
        handler=get_tags,
        summary="The sandbox's tags",
        access=Access.ORGANISATION,
        answers={200: TagsBody},
        errors=("not_found",),
    ),
    Endpoint(
        method="PUT",
        paths=(f"{SANDBOX}/tags",),
        handler=put_tags,
        summary="Replace all tags of the sandbox",
        access=Access.ORGANISATION,
        body=ReplaceTags,
        answers={200: TagsBody},
        errors=("not_found", "invalid_argument", "not_ready"),
    ),
    Endpoint(
        method="GET",
        paths=("/api/tags",),
        handler=list_tag_keys,
        summary="The tag keys in use, with how many sandboxes and values each has",
        access=Access.ORGANISATION,
        answers={200: TagKeys},
    ),
)
