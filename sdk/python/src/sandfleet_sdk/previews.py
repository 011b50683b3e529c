"""Previews of guest ports, written once as flows."""

from __future__ import annotations

from sandfleet_sdk.attached_models import Preview
from sandfleet_sdk.calls import Call, Flow, path_of
from sandfleet_sdk.sandboxes import idempotency


def create(sandbox_id: str, port: int) -> Flow[Preview]:
    """Record a port and return its host name; the same port twice is one record."""
    answer = yield Call(
        method="POST",
        path=path_of("sandboxes", sandbox_id, "preview"),
        payload={"port": port},
        headers=idempotency(),
    )
    return Preview.parse(answer.object())


def list_previews(sandbox_id: str) -> Flow[list[Preview]]:
    """Return the sandbox's records, newest first."""
    answer = yield Call(method="GET", path=path_of("sandboxes", sandbox_id, "preview"))
    return [Preview.parse(entry) for entry in answer.array()]


def delete(sandbox_id: str, port: int) -> Flow[None]:
    """Remove a port's record."""
    yield Call(method="DELETE", path=path_of("sandboxes", sandbox_id, "preview", str(port)))


def rotate_token(sandbox_id: str) -> Flow[str]:
    """Have previews ask for a new bearer token from now on, and return it: it is not shown again."""
    answer = yield Call(
        method="POST",
        path=path_of("sandboxes", sandbox_id, "preview", "rotate"),
        headers=idempotency(),
    )
    return str(answer.object().get("previewAuthToken") or "")
