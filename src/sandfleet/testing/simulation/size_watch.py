"""Sizes that the fleet changes by itself: it may, they are within their bounds, and they come to rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sandfleet.controlplane.loops.autoscale import ACTOR
from sandfleet.model.ids import SandboxId
from sandfleet.model.operation import Operation
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.transition import Transition

if TYPE_CHECKING:
    from sandfleet.testing.simulation.guest_use import GuestUses
    from sandfleet.testing.simulation.invariants import Findings

SIZE = "memory_mib"
"""The argument of an operation that changes a size, here or by a move."""


@dataclass(frozen=True, slots=True)
class _Change:
    period: int
    before_mib: int
    after_mib: int

    @property
    def grows(self) -> bool:
        """Whether it makes the sandbox larger."""
        return self.after_mib > self.before_mib


@dataclass
class SizeWatch:
    """Sees each change of a size at its beginning."""

    findings: Findings
    uses: GuestUses
    _last: dict[SandboxId, _Change] = field(default_factory=dict)

    def settings_changed(self, sandbox_id: SandboxId) -> None:
        """Begin anew with a sandbox whose owner has changed what the fleet may do."""
        self._last.pop(sandbox_id, None)

    def look(self, row: Sandbox, operation: Operation, log: Transition) -> None:
        """Look at a change that begins with this row of the log."""
        wanted_mib = operation.arguments.get(SIZE)
        if wanted_mib is None or not log.event.endswith("_requested"):
            return
        require, name = self.findings.require, f"{row.id}: {log.actor} changes its size"
        require(not row.scaling.is_locked, f"{name}, which is locked")
        if log.actor != ACTOR:
            return
        require(row.scaling.is_automatic, f"{name}, which nobody asked for")
        most = row.scaling.memory_max_mib or wanted_mib
        require(wanted_mib <= most, f"{name} to {wanted_mib} MiB, its most is {most}")
        change = _Change(self.uses.period, row.resources.memory_mib, wanted_mib)
        before = self._last.get(row.id)
        turns = before is not None and before.period == change.period and before.grows != change.grows
        follows = before is not None and change.before_mib in (before.before_mib, before.after_mib)
        require(not (turns and follows), f"{name} to and fro under equal use: {before}, {change}")
        self._last[row.id] = change
