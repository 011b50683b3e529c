"""Hibernate, wake, checkpoints, restore and forks, written once as flows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sandfleet_sdk.calls import Call, Flow, Pause, path_of
from sandfleet_sdk.errors import ApiError
from sandfleet_sdk.models import Sandbox
from sandfleet_sdk.sandboxes import get, idempotency, without_none
from sandfleet_sdk.saved_models import Checkpoint, Forks, Hibernation

READY_SILENCE_S = 120.0
"""A fork of a checkpoint that is being stored is answered when that is done."""
_POLL_S = 0.5
_COMING = frozenset({"creating", "waking", "restoring"})


def hibernate(sandbox_id: str, *, wait_s: float = 600.0) -> Flow[Hibernation]:
    """Save a sandbox and free its place; any later call on it wakes it."""
    answer = yield Call(
        method="POST", path=path_of("sandboxes", sandbox_id, "hibernate"), headers=idempotency()
    )
    saved = Hibernation.parse(answer.object())
    if saved.status != "hibernating":
        return saved
    sandbox = yield from _until_settled(sandbox_id, {"hibernating"}, wait_s=wait_s)
    return Hibernation(
        sandbox_id=saved.sandbox_id, status=sandbox.status, size_bytes=saved.size_bytes, raw=saved.raw
    )


def wake(sandbox_id: str, *, timeout_s: int | None = None, wait_s: float = 120.0) -> Flow[Sandbox]:
    """Bring a hibernated sandbox back and return it running; `timeout_s` sets a new idle timeout."""
    answer = yield Call(
        method="POST",
        path=path_of("sandboxes", sandbox_id, "wake"),
        payload=without_none(timeout=timeout_s),
        headers=idempotency(),
    )
    sandbox = Sandbox.parse(answer.object())
    return (yield from _arrived(sandbox, wait_s=wait_s))


def create_checkpoint(
    sandbox_id: str,
    name: str,
    *,
    wait_s: float = 600.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Flow[Checkpoint]:
    """Take a checkpoint of a running sandbox and return it ready; with `wait_s` 0 return it at once.

    `on_progress` is told, while it is being stored, how many bytes are, and of how many.
    """
    answer = yield Call(
        method="POST",
        path=path_of("sandboxes", sandbox_id, "checkpoints"),
        payload={"name": name},
        headers=idempotency(),
    )
    checkpoint = Checkpoint.parse(answer.object())
    for _ in range(int(wait_s / _POLL_S)):
        if checkpoint.status != "processing":
            break
        yield Pause(_POLL_S)
        found = yield from list_checkpoints(sandbox_id)
        checkpoint = next((one for one in found if one.id == checkpoint.id), checkpoint)
        if on_progress is not None and checkpoint.uploaded is not None:
            on_progress(*checkpoint.uploaded)
    if checkpoint.status == "failed":
        raise ApiError(
            f"checkpoint {name} failed: {checkpoint.error or 'no reason given'}",
            status=400,
            code="checkpoint_failed",
        )
    return checkpoint


def list_checkpoints(sandbox_id: str) -> Flow[list[Checkpoint]]:
    """Return the checkpoints of a sandbox, newest first."""
    answer = yield Call(method="GET", path=path_of("sandboxes", sandbox_id, "checkpoints"))
    return [Checkpoint.parse(entry) for entry in answer.array()]


def delete_checkpoint(sandbox_id: str, checkpoint_id: str) -> Flow[None]:
    """Delete a checkpoint; sandboxes that were made from it live on."""
    yield Call(method="DELETE", path=path_of("sandboxes", sandbox_id, "checkpoints", checkpoint_id))


def restore(sandbox_id: str, checkpoint_id: str, *, wait_s: float = 120.0) -> Flow[Sandbox]:
    """Bring a sandbox back to one of its checkpoints, in place, and return it running."""
    yield Call(
        method="POST",
        path=path_of("sandboxes", sandbox_id, "checkpoints", checkpoint_id, "restore"),
        headers=idempotency(),
    )
    sandbox = yield from get(sandbox_id)
    return (yield from _arrived(sandbox, wait_s=wait_s))


def create_from_checkpoint(
    checkpoint_id: str,
    *,
    timeout_s: int | None = None,
    envs: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
    memory_mib: int | None = None,
    alias: str | None = None,
) -> Flow[Sandbox]:
    """Create a sandbox from a checkpoint and return it running, with an identity of its own."""
    body = without_none(timeout=timeout_s, envs=envs, metadata=metadata, memoryMB=memory_mib, alias=alias)
    answer = yield Call(
        method="POST",
        path=path_of("sandboxes", "from-checkpoint", checkpoint_id),
        payload=body,
        headers=idempotency(),
        idle_timeout_s=READY_SILENCE_S,
    )
    return (yield from _arrived(Sandbox.parse(answer.object()), wait_s=READY_SILENCE_S))


def fork(
    sandbox_id: str,
    *,
    count: int = 1,
    partial: bool = False,
    timeout_s: int | None = None,
    envs: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Flow[Forks]:
    """Start `count` sandboxes from a running one as it is now; all or none unless `partial`."""
    body: dict[str, Any] = without_none(timeout=timeout_s, envs=envs, metadata=metadata)
    answer = yield Call(
        method="POST",
        path=path_of("sandboxes", sandbox_id, "fork"),
        query={"count": str(count), "partial": str(partial).lower()},
        payload=body,
        headers=idempotency(),
    )
    return Forks.parse(answer.object())


def _arrived(sandbox: Sandbox, *, wait_s: float) -> Flow[Sandbox]:
    """Return the sandbox when it runs; ApiError when it does not come."""
    if sandbox.status in _COMING:
        sandbox = yield from _until_settled(sandbox.id, _COMING, wait_s=wait_s)
    if sandbox.status != "running":
        raise ApiError(
            f"sandbox {sandbox.id} is {sandbox.status}: {sandbox.error or 'see its events'}",
            status=200,
            code=sandbox.status,
        )
    return sandbox


def _until_settled(sandbox_id: str, passing: frozenset[str] | set[str], *, wait_s: float) -> Flow[Sandbox]:
    sandbox = yield from get(sandbox_id)
    for _ in range(int(wait_s / _POLL_S)):
        if sandbox.status not in passing:
            break
        yield Pause(_POLL_S)
        sandbox = yield from get(sandbox_id)
    return sandbox
