"""What hangs on a sandbox besides its life: stats, tags, size, tokens, restarts. Written once as flows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sandfleet_sdk.attached_models import Migration, MigrationProgress, Size, Stats, Tags, TagUse
from sandfleet_sdk.calls import Call, Flow, path_of
from sandfleet_sdk.sandboxes import idempotency, without_none

RESIZE_SILENCE_S = 150.0
"""Shrinking goes on for as long as the guest gives memory back."""


MOVE_SILENCE_S = 3600.0
"""A large sandbox on a slow link takes its time."""


def stats(sandbox_id: str) -> Flow[Stats]:
    """Return what the sandbox uses now; looking neither wakes it nor keeps it awake."""
    answer = yield Call(method="GET", path=path_of("sandboxes", sandbox_id, "stats"))
    return Stats.parse(answer.object())


def tags(sandbox_id: str) -> Flow[Tags]:
    """Return the sandbox's tags."""
    answer = yield Call(method="GET", path=path_of("sandboxes", sandbox_id, "tags"))
    return Tags.parse(answer.object())


def set_tags(sandbox_id: str, values: Mapping[str, str]) -> Flow[Tags]:
    """Replace all tags; an empty map takes them away."""
    answer = yield Call(method="PUT", path=path_of("sandboxes", sandbox_id, "tags"), payload=dict(values))
    return Tags.parse(answer.object())


def tag_keys() -> Flow[list[TagUse]]:
    """Return the tag keys in use, with how many sandboxes and values each has."""
    answer = yield Call(method="GET", path="/tags")
    return [TagUse.parse(entry) for entry in answer.object().get("keys") or []]


def refresh_token(sandbox_id: str) -> Flow[str]:
    """Return a sandbox token with a fresh life."""
    answer = yield Call(method="POST", path=path_of("sandboxes", sandbox_id, "token", "refresh"))
    return str(answer.object().get("token") or "")


def scale(sandbox_id: str, memory_mib: int, *, cpu_percent: int | None = None) -> Flow[Size]:
    """Change memory and CPU of a running sandbox; returns when the guest has them, or `pending`."""
    body: dict[str, Any] = without_none(memoryMB=memory_mib, cpuPercent=cpu_percent)
    answer = yield Call(
        method="PUT",
        path=path_of("sandboxes", sandbox_id, "limits"),
        payload=body,
        idle_timeout_s=RESIZE_SILENCE_S,
    )
    return Size.parse(answer.object())


def migrate(sandbox_id: str, target_worker: str = "*") -> Flow[Migration]:
    """Move a running sandbox to a worker, or to one that the fleet chooses. Needs the scope `admin`."""
    answer = yield Call(
        method="POST",
        path=path_of("sandboxes", sandbox_id, "migrate"),
        payload={"targetWorker": target_worker},
        headers=idempotency(),
        idle_timeout_s=MOVE_SILENCE_S,
    )
    return Migration.parse(answer.object())


def migration(sandbox_id: str) -> Flow[MigrationProgress]:
    """Return how the move of a sandbox that is under way stands; NotFound when none is."""
    answer = yield Call(method="GET", path=path_of("sandboxes", sandbox_id, "migrate"))
    return MigrationProgress.parse(answer.object())


def reboot(sandbox_id: str) -> Flow[None]:
    """Restart the guest: the same disk, its processes lost."""
    yield Call(method="POST", path=path_of("sandboxes", sandbox_id, "reboot"), headers=idempotency())


def power_cycle(sandbox_id: str) -> Flow[None]:
    """Replace the VM's process, as pulling the plug would: works without the guest's help."""
    yield Call(method="POST", path=path_of("sandboxes", sandbox_id, "power-cycle"), headers=idempotency())
