"""Sandbox lifecycle: which event takes a sandbox from which state to which.

Rule 1: a sandbox changes state only through a row of `TRANSITIONS`.
Rule 2: nothing here waits, reads a clock or reaches a store. The caller writes
down what `advance` returns, guarded by the version that it read.
Rule 3: `kill_requested` is legal in every state that is not terminal, and wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from sandfleet.model.errors import IllegalTransition
from sandfleet.model.ids import WorkerId
from sandfleet.model.sandbox import Sandbox, SandboxState

S = SandboxState


class SandboxEvent(StrEnum):
    """What can happen to a sandbox."""

    BOOTED = "booted"
    CREATE_FAILED = "create_failed"
    IDLE_EXPIRED = "idle_expired"
    EXPIRY_REFUSED = "expiry_refused"
    EXPIRED = "expired"
    HIBERNATE_REQUESTED = "hibernate_requested"
    HIBERNATE_FAILED = "hibernate_failed"
    SAVED = "saved"
    WAKE_REQUESTED = "wake_requested"
    WAKE_FAILED = "wake_failed"
    WOKEN = "woken"
    RESTORE_REQUESTED = "restore_requested"
    RESTORE_FAILED = "restore_failed"
    RESTORED = "restored"
    REBOOT_REQUESTED = "reboot_requested"
    REBOOT_FAILED = "reboot_failed"
    REBOOTED = "rebooted"
    MIGRATE_REQUESTED = "migrate_requested"
    MIGRATE_FAILED = "migrate_failed"
    MIGRATED = "migrated"
    KILL_REQUESTED = "kill_requested"
    LOST = "lost"
    RECOVER = "recover"
    """It was lost, and comes back from its newest saved state."""


E = SandboxEvent

TRANSITIONS: Mapping[SandboxState, Mapping[SandboxEvent, SandboxState]] = MappingProxyType(
    {
        S.CREATING: {E.BOOTED: S.RUNNING, E.CREATE_FAILED: S.FAILED, E.KILL_REQUESTED: S.STOPPED},
        S.RUNNING: {
            E.IDLE_EXPIRED: S.HIBERNATING,
            E.HIBERNATE_REQUESTED: S.HIBERNATING,
            E.RESTORE_REQUESTED: S.RESTORING,
            E.REBOOT_REQUESTED: S.REBOOTING,
            E.MIGRATE_REQUESTED: S.MIGRATING,
            E.KILL_REQUESTED: S.STOPPED,
            E.LOST: S.ERROR,
            E.RECOVER: S.WAKING,
        },
        S.HIBERNATING: {
            E.EXPIRY_REFUSED: S.RUNNING,
            E.EXPIRED: S.STOPPED,
            E.HIBERNATE_FAILED: S.RUNNING,
            E.SAVED: S.HIBERNATED,
            E.KILL_REQUESTED: S.STOPPED,
            E.LOST: S.ERROR,
            E.RECOVER: S.WAKING,
        },
        S.HIBERNATED: {E.WAKE_REQUESTED: S.WAKING, E.KILL_REQUESTED: S.STOPPED},
        S.WAKING: {
            E.WOKEN: S.RUNNING,
            E.WAKE_FAILED: S.HIBERNATED,
            E.KILL_REQUESTED: S.STOPPED,
            E.LOST: S.ERROR,
        },
        S.RESTORING: {
            E.RESTORED: S.RUNNING,
            E.RESTORE_FAILED: S.RUNNING,
            E.KILL_REQUESTED: S.STOPPED,
            E.LOST: S.ERROR,
        },
        S.REBOOTING: {
            E.REBOOTED: S.RUNNING,
            E.REBOOT_FAILED: S.RUNNING,
            E.KILL_REQUESTED: S.STOPPED,
            E.LOST: S.ERROR,
        },
        S.MIGRATING: {
            E.MIGRATED: S.RUNNING,
            E.MIGRATE_FAILED: S.RUNNING,
            E.KILL_REQUESTED: S.STOPPED,
        },
        S.STOPPED: {},
        S.FAILED: {},
        S.ERROR: {},
    }
)


def advance(sandbox: Sandbox, event: SandboxEvent, *, at: datetime) -> Sandbox:
    """Return the sandbox as it stands after `event`, with the next version."""
    state = TRANSITIONS.get(sandbox.state, {}).get(event)
    if state is None:
        raise IllegalTransition(f"sandbox {sandbox.id} is {sandbox.state}: {event} is not possible")
    return replace(sandbox, state=state, changed_at=at, version=sandbox.version + 1)


def place(sandbox: Sandbox, worker_id: WorkerId, *, at: datetime) -> Sandbox:
    """Return the sandbox owned by `worker_id`, with the next epoch and version."""
    return replace(
        sandbox, worker_id=worker_id, epoch=sandbox.epoch + 1, changed_at=at, version=sandbox.version + 1
    )
