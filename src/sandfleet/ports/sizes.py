"""Changes of a running sandbox's size (adapter: `adapters/postgres`).

Rule: a reservation is never smaller than what the guest may have. Growth is reserved
with the operation's beginning, what a shrinking gives back is released with its end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from sandfleet.model.ids import SandboxId
from sandfleet.model.operation import Operation
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.transition import Transition
from sandfleet.model.worker import Worker


class SizeStore(Protocol):
    """Both ends of a change of size, each in one transaction."""

    async def begin(
        self,
        sandbox: Sandbox,
        operation: Operation,
        transition: Transition,
        *,
        memory_mib: int,
        refuse: Callable[[Worker, int], str | None],
        term: int | None = None,
    ) -> None:
        """Write the row and the operation, and reserve what `memory_mib` is above the reservation.

        QuotaExceeded, NoCapacity (what `refuse` says of the worker), StaleVersion; with `term`, StaleTerm
        if a newer leader was elected: nothing is written.
        """
        ...

    async def finish(
        self, operation: Operation, *, sandbox: Sandbox, transition: Transition, reserved_mib: int
    ) -> None:
        """End the operation, write the row, reserve exactly `reserved_mib`; StaleVersion, StaleLease."""
        ...

    async def autoscaled(self, *, after: SandboxId | None, limit: int) -> Sequence[Sandbox]:
        """Return running sandboxes whose size the fleet looks after, by id, those behind `after` first."""
        ...
