"""Commands that wait for their sandboxes, in memory (port: `ports.pending_commands`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from sandfleet.model.errors import SandfleetError
from sandfleet.model.ids import ExecId, OrganisationId, SandboxId
from sandfleet.ports.pending_commands import PendingCommand
from sandfleet.testing.memory.database import MemoryDatabase, StoredCommand
from sandfleet.testing.memory.link import Link

_FAILURES_KEPT = timedelta(hours=1)


class MemoryPendingCommandStore:
    """Commands by their ids."""

    def __init__(self, database: MemoryDatabase, link: Link) -> None:
        self._database = database
        self._link = link
        self._rows = database.commands

    async def add(self, command: PendingCommand, *, holder: str, lease_s: float) -> None:
        """Insert it unless it is there."""

        def work() -> None:
            now = self._database.now()
            lease_until = now + timedelta(seconds=lease_s)
            deadline_at = now + timedelta(seconds=command.remaining_s)
            self._rows.setdefault(command.exec_id, StoredCommand(command, holder, lease_until, deadline_at))

        await self._link.call(work, repeatable=True, name="add_command")

    async def find(
        self, organisation_id: OrganisationId, sandbox_id: SandboxId, exec_id: str
    ) -> PendingCommand | None:
        """Return it."""

        def work() -> PendingCommand | None:
            stored = self._rows.get(exec_id)
            if stored is None:
                return None
            found = self._read(stored)
            owner = (found.organisation_id, found.sandbox_id)
            return found if owner == (organisation_id, sandbox_id) else None

        return await self._link.call(work, repeatable=True, name="find_command")

    async def take_over(self, *, holder: str, lease_s: float, limit: int) -> Sequence[PendingCommand]:
        """Lease what nobody holds, the longest abandoned first."""

        def work() -> Sequence[PendingCommand]:
            now = self._database.now()
            left = [
                one
                for one in self._rows.values()
                if one.command.failure_code is None and one.lease_until < now
            ]
            left.sort(key=lambda one: one.lease_until)
            for one in left[:limit]:
                one.holder, one.lease_until = holder, now + timedelta(seconds=lease_s)
            return [self._read(one) for one in left[:limit]]

        return await self._link.call(work, repeatable=True, name="take_over_commands")

    async def hold(self, exec_id: ExecId, *, holder: str, lease_s: float) -> None:
        """Prolong the lease if it is the holder's."""

        def work() -> None:
            stored = self._rows.get(exec_id)
            if stored is not None and stored.holder == holder:
                stored.lease_until = self._database.now() + timedelta(seconds=lease_s)

        await self._link.call(work, repeatable=True, name="hold_command")

    async def started(self, exec_id: ExecId) -> None:
        """Delete it."""
        await self._link.call(lambda: self._rows.pop(exec_id, None), repeatable=True, name="command_started")

    async def failed(self, exec_id: ExecId, error: SandfleetError) -> None:
        """Write the reason down."""

        def work() -> None:
            stored = self._rows.get(exec_id)
            if stored is not None:
                stored.command = replace(
                    stored.command, failure_code=error.code, failure_message=error.message
                )

        await self._link.call(work, repeatable=True, name="command_failed")

    async def remove_old(self) -> int:
        """Delete what failed and is old."""

        def work() -> int:
            limit = self._database.now() - _FAILURES_KEPT
            old = [
                exec_id
                for exec_id, one in self._rows.items()
                if one.command.failure_code is not None and one.deadline_at < limit
            ]
            for exec_id in old:
                del self._rows[exec_id]
            return len(old)

        return await self._link.call(work, repeatable=True, name="remove_old_commands")

    def _read(self, stored: StoredCommand) -> PendingCommand:
        remaining = stored.deadline_at - self._database.now()
        return replace(stored.command, remaining_s=remaining.total_seconds())
