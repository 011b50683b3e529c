"""Workers, organisations and keys, written once as flows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sandfleet_sdk.calls import Call, Flow, path_of
from sandfleet_sdk.event_feed import LOG, log_query
from sandfleet_sdk.models import ApiKey, Event, Organisation, Worker
from sandfleet_sdk.sandboxes import idempotency

ROOT = "//"
"""Prefix of paths that lie outside `/api`."""


def readiness() -> Flow[Mapping[str, Any]]:
    """Return the server's own view of its health; raises `Unavailable` when it is not ready."""
    answer = yield Call(method="GET", path=f"{ROOT}readyz", idle_timeout_s=5)
    return answer.object()


def list_workers() -> Flow[list[Worker]]:
    """Return the hosts of the fleet."""
    answer = yield Call(method="GET", path="/workers")
    return [Worker.parse(entry) for entry in answer.array()]


def forget_worker(worker_id: str, *, lost: bool = False) -> Flow[None]:
    """Take an empty worker, or with `lost` one whose host is no more, off the fleet (scope `admin`)."""
    path = ROOT + path_of("admin", "workers", worker_id, "forget").lstrip("/")
    yield Call(method="POST", path=path, query={"lost": "true"} if lost else {})


def fleet_events(
    *, limit: int = 100, types: Iterable[str] = (), before: int | None = None, **filters: str | None
) -> Flow[list[Event]]:
    """Return what happened in the fleet, newest first (scope `admin`); `before` is the id of an event.

    `filters`: `scope` (`fleet`: only what it decided by itself), `worker`, `sandbox`, `launch`, `since` and
    `until`.
    """
    more = {"limit": str(limit), "before": None if before is None else str(before)}
    answer = yield Call(method="GET", path=f"{LOG}/history", query=log_query(types, {**filters, **more}))
    return [Event.parse(entry) for entry in answer.array()]


def list_organisations() -> Flow[list[Organisation]]:
    """Return all organisations (scope `admin`)."""
    answer = yield Call(method="GET", path=f"{ROOT}admin/orgs")
    return [Organisation.parse(entry) for entry in answer.array()]


def create_key(organisation_id: str, *, name: str, scopes: Sequence[str] = ("org",)) -> Flow[ApiKey]:
    """Make a key of an organisation (scope `admin`); `key` of the answer is shown this once."""
    answer = yield Call(
        method="POST",
        path=_keys_of(organisation_id),
        payload={"name": name, "scopes": list(scopes)},
        headers=idempotency(),
    )
    return ApiKey.parse(answer.object())


def list_keys(organisation_id: str) -> Flow[list[ApiKey]]:
    """Return an organisation's keys, without the keys themselves (scope `admin`)."""
    answer = yield Call(method="GET", path=_keys_of(organisation_id))
    return [ApiKey.parse(entry) for entry in answer.array()]


def revoke_key(organisation_id: str, key_id: str) -> Flow[None]:
    """Make a key useless at once (scope `admin`)."""
    yield Call(method="DELETE", path=_keys_of(organisation_id) + path_of(key_id))


def _keys_of(organisation_id: str) -> str:
    return ROOT + path_of("admin", "orgs", organisation_id, "keys").lstrip("/")
