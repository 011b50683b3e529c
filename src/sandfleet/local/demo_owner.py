"""Whose the sandboxes of a demo are: its own while it runs, the next demo's to end when it was killed."""

from __future__ import annotations

import os
from collections.abc import Iterable

from sandfleet.local.processes import ProcessIdentity, identify
from sandfleet_sdk import Client, Sandbox

METADATA_KEY = "demo-process"
_LEFT_MAX = 1000
_NOT_ENDED = (
    "creating",
    "running",
    "hibernating",
    "hibernated",
    "waking",
    "restoring",
    "rebooting",
    "migrating",
)


def ownership() -> dict[str, str]:
    """Return the metadata that says that a sandbox is this process's."""
    own = identify(os.getpid())
    return {METADATA_KEY: _name(own)} if own is not None else {}


def left_by_the_dead(sandboxes: Iterable[Sandbox]) -> list[str]:
    """Return those that a demo made which runs no more."""
    owned = ((one.id, one.metadata.get(METADATA_KEY)) for one in sandboxes)
    return [sandbox for sandbox, owner in owned if owner is not None and not _is_running(owner)]


def end_left_sandboxes(client: Client) -> None:
    """End what demos left that were killed."""
    for sandbox in left_by_the_dead(client.sandboxes.list(status=_NOT_ENDED, limit=_LEFT_MAX)):
        client.sandboxes.kill(sandbox)


def _name(process: ProcessIdentity) -> str:
    return f"{process.pid}.{process.started_ticks}.{process.boot_id}"


def _is_running(owner: str) -> bool:
    pid, _, _ = owner.partition(".")
    found = identify(int(pid)) if pid.isdecimal() else None
    return found is not None and owner == _name(found)
