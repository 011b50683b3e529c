"""Which idle sandboxes expire now: the longest idle first, so many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sandfleet.model.sandbox import Sandbox, SandboxState


@dataclass(frozen=True, slots=True)
class Expire:
    """The command to expire one sandbox, with how long it has been idle."""

    sandbox: Sandbox
    idle_s: float


def due(candidates: Sequence[Sandbox], *, now: datetime, limit: int) -> list[Expire]:
    """Return those whose idle time is over; a timeout of 0 never ends."""
    commands = [
        Expire(sandbox, idle_s(sandbox, now=now))
        for sandbox in candidates
        if sandbox.state is SandboxState.RUNNING and sandbox.timeout_s > 0
    ]
    over = [command for command in commands if command.idle_s >= command.sandbox.timeout_s]
    over.sort(key=lambda command: (-command.idle_s, command.sandbox.id))
    return over[:limit]


def idle_s(sandbox: Sandbox, *, now: datetime) -> float:
    """Return for how long nothing has happened in the sandbox, as far as the row knows."""
    since = sandbox.active_at or sandbox.started_at or sandbox.changed_at
    return max(0.0, (now - since).total_seconds())
