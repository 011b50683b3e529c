"""What of a worker's VMs and rows do not match: one pure comparison, both ways.

Unknown is not empty: this takes a complete list of what the worker holds, never the
lack of one. What it finds is a suspicion; the loop that acts on it looks again first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sandfleet.model.ids import SandboxId
from sandfleet.model.sandbox import TERMINAL_STATES, SandboxState


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
