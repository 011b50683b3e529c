"""The places of sandboxes that move (adapter: `adapters/postgres`).

Rule: a sandbox that moves has two places from before its target is told of it until the worker that it
is not on, after all, has proven that nothing of it is left there. The reservation is the owner's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sandfleet.model.ids import WorkerId
from sandfleet.model.operation import Operation
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.transition import Transition
from sandfleet.planning.placement import FleetView, NoPlacement


@dataclass(frozen=True, slots=True)
class MoveBeginning:
    """Where a sandbox is to move, and what is written down with the place."""

    target: WorkerId
    operation: Operation
    transition: Transition
    memory_mib: int = 0
    """What it is to have there, if that is more than it has."""


MoveDecision = Callable[[FleetView, int], MoveBeginning | NoPlacement]
"""Where to, given the fleet and the memory in MiB that is promised to the sandbox where it is: it may be more
than its row says, while a change of its size is under way or has not gone as it was asked for."""


class MoveStore(Protocol):
    """Each change of a moving sandbox's places, in one transaction with its row."""

    async def begin(
        self,
        sandbox: Sandbox,
        decide: MoveDecision,
        *,
        term: int | None = None,
    ) -> MoveBeginning | NoPlacement:
        """Lock placement, decide, write the row, the operation and the second place.

        NoPlacement writes nothing. QuotaExceeded when it is to grow by too much. StaleVersion when
        the row changed; Conflict `operation_in_progress`
        when the sandbox still has a second place from a move before. StaleTerm when `term`, which a
        leader's effects carry, is not the newest.
        """
        ...

    async def commit(
        self, operation: Operation, sandbox: Sandbox, transition: Transition, *, source: WorkerId
    ) -> None:
        """Write row and operation; reservation and second place exchange their workers and amounts.

        StaleVersion, StaleLease: nothing is written.
        """
        ...

    async def release(self, operation: Operation) -> None:
        """End the operation and give the second place back; StaleLease."""
        ...
