"""What an operation is made of: named steps, and what giving up means.

Rule 1: a step may run twice, and may run again on another replica after a crash
anywhere within it. It reads what it needs and acts idempotently.
Rule 2: a step returns the operation as it stands in the store: with the next step's
name, or ended. It never leaves a change of state to a later write.
Rule 3: a step that must wait waits where it may be cancelled: cancellation means that
the lease is lost, the sandbox was killed, or the deadline is over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.model.errors import SandfleetError
from sandfleet.model.operation import Operation
from sandfleet.model.sandbox import Sandbox

if TYPE_CHECKING:
    from sandfleet.controlplane.operations.creation_queue import CreationQueue


@dataclass(slots=True)
class Run:
    """One replica's run of one operation."""

    plane: ControlPlane
    queue: CreationQueue
    begin: Callable[[Operation], None]
    """Runs an operation that was just written, on this replica."""
    sandbox: Sandbox | None = field(default=None, repr=False)
    """The row as this run last read or wrote it."""

    async def row(self, operation: Operation) -> Sandbox:
        """Return the operation's sandbox, read once."""
        return self.sandbox or await self.fresh_row(operation)

    async def fresh_row(self, operation: Operation) -> Sandbox:
        """Read the row again."""
        self.sandbox = await self.plane.stores.sandboxes.get_any(operation.sandbox_id)
        return self.sandbox


Step = Callable[[Run, Operation], Awaitable[Operation]]
GiveUp = Callable[[Run, Operation, SandfleetError], Awaitable[Operation]]


@dataclass(frozen=True, slots=True)
class Definition:
    """The steps of one kind of operation; without `give_up` it is repeated until it succeeds."""

    steps: Mapping[str, Step]
    give_up: GiveUp | None = None
