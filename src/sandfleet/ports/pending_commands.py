"""Commands that were accepted before their sandbox was ready (adapter: `adapters/postgres`).

A command is here from before its handle is given out until its sandbox has it, or, when
it could not be started, for an hour, so that whoever has the handle hears why. All
methods raise `StoreUnavailable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sandfleet.model.errors import SandfleetError
from sandfleet.model.ids import ExecId, OrganisationId, SandboxId


@dataclass(frozen=True, slots=True)
class PendingCommand:
    """A command that waits, or that could not be started."""

    organisation_id: OrganisationId
    sandbox_id: SandboxId
    exec_id: ExecId
    body: bytes = field(repr=False)
    """What its sandbox's worker will be sent; it may hold secrets and is kept encrypted."""
    failure_code: str | None = None
    failure_message: str | None = None
    remaining_s: float = 0.0
    """How long it may still wait, by the database's clock."""


class PendingCommandStore(Protocol):
    """Waiting commands and the leases of the replicas that start them."""

    async def add(self, command: PendingCommand, *, holder: str, lease_s: float) -> None:
        """Insert it, to wait for `remaining_s`; one of that id that is there already stays."""
        ...

    async def find(
        self, organisation_id: OrganisationId, sandbox_id: SandboxId, exec_id: str
    ) -> PendingCommand | None:
        """Return it, None when its sandbox has it or there never was one."""
        ...

    async def take_over(self, *, holder: str, lease_s: float, limit: int) -> Sequence[PendingCommand]:
        """Lease commands that wait and whose replica has let them go or died."""
        ...

    async def hold(self, exec_id: ExecId, *, holder: str, lease_s: float) -> None:
        """Prolong the lease; 0 gives it up."""
        ...

    async def started(self, exec_id: ExecId) -> None:
        """Forget it: its sandbox knows it now."""
        ...

    async def failed(self, exec_id: ExecId, error: SandfleetError) -> None:
        """Note why it will never be started."""
        ...

    async def remove_old(self) -> int:
        """Delete what failed more than an hour ago; return how many."""
        ...
