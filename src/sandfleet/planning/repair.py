"""What of a worker's VMs and rows do not match, both ways; and what becomes of a sandbox that was lost.

Unknown is not empty: this takes a complete list of what the worker holds, never the
lack of one. What it finds is a suspicion; the loop that acts on it looks again first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.sandbox import TERMINAL_STATES, SandboxState
from sandfleet.model.snapshot import Snapshot, SnapshotState

RECOVERIES_MAX = 3
RECOVERIES_WITHIN = timedelta(hours=1)
"""A state whose VM dies again and again is not loaded for ever."""


@dataclass(frozen=True, slots=True)
class Presence:
    """What the store expects of one sandbox on one worker."""

    sandbox_id: SandboxId
    state: SandboxState
    epoch: int
    has_reservation: bool
    has_open_operation: bool


@dataclass(frozen=True, slots=True)
class Held:
    """What the worker says of one VM."""

    sandbox_id: SandboxId
    is_dead: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Mismatch:
    """VMs that nothing in the store owns, and running rows without a living VM (with the reason)."""

    unowned: frozenset[SandboxId]
    lost: Mapping[SandboxId, str]


def mismatch(expected: Iterable[Presence], held: Iterable[Held]) -> Mismatch:
    """Compare what should be on the worker with what is."""
    rows = {row.sandbox_id: row for row in expected}
    vms = {vm.sandbox_id: vm for vm in held}
    unowned = frozenset(sandbox_id for sandbox_id in vms if not _is_owned(rows.get(sandbox_id)))
    lost = {
        sandbox_id: reason
        for sandbox_id, row in rows.items()
        if row.state is SandboxState.RUNNING
        and not row.has_open_operation
        and (reason := _why_lost(vms.get(sandbox_id))) is not None
    }
    return Mismatch(unowned=unowned, lost=lost)


def _is_owned(row: Presence | None) -> bool:
    """A row that lives, a reservation that a destroy will free, or an operation under way."""
    if row is None:
        return False
    return row.state not in TERMINAL_STATES or row.has_reservation or row.has_open_operation


def _why_lost(vm: Held | None) -> str | None:
    if vm is None:
        return "its worker has no such machine any more"
    return vm.reason or "its machine died" if vm.is_dead else None


@dataclass(frozen=True, slots=True)
class Recovery:
    """A lost sandbox comes back from this state."""

    snapshot: Snapshot
    reason: str


@dataclass(frozen=True, slots=True)
class NoRecovery:
    """A lost sandbox cannot come back."""

    reason: str


def recovery(
    why: str,
    saved: Iterable[Snapshot],
    *,
    recovered_at: Iterable[datetime],
    answering: WorkerId | None,
    now: datetime,
) -> Recovery | NoRecovery:
    """Choose the newest state that a lost sandbox can come back from, or say why there is none.

    `answering`: the worker that said that the VM is lost, so what lies on its disk alone can be
    had; None when that worker is gone.
    """
    recent = [at for at in recovered_at if now - at < RECOVERIES_WITHIN]
    if len(recent) >= RECOVERIES_MAX:
        return NoRecovery(f"{why}; it was recovered {len(recent)} times within the last hour")
    usable = [snapshot for snapshot in saved if _can_be_had(snapshot, answering)]
    if not usable:
        return NoRecovery(why)
    newest = max(usable, key=lambda snapshot: (snapshot.created_at, snapshot.id))
    lost_s = max(0.0, (now - newest.created_at).total_seconds())
    taken = newest.created_at.isoformat(timespec="seconds")
    return Recovery(
        newest,
        f"{why}; it goes back to what was saved at {taken}, what it did in {lost_s:.0f} s since is lost",
    )


def _can_be_had(snapshot: Snapshot, answering: WorkerId | None) -> bool:
    if snapshot.state is SnapshotState.DURABLE:
        return True
    is_there = answering is not None and snapshot.worker_id == answering
    return snapshot.state is SnapshotState.LOCAL and is_there
