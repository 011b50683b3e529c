"""Commands that wait for their sandboxes (port: `ports.pending_commands`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Double, Row, bindparam, delete, extract, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.sealing import Sealer
from sandfleet.adapters.postgres.statements import in_seconds
from sandfleet.adapters.postgres.tables import pending_commands as commands
from sandfleet.model.errors import SandfleetError
from sandfleet.model.ids import ExecId, OrganisationId, SandboxId
from sandfleet.ports.pending_commands import PendingCommand

_LEASE_END = in_seconds(bindparam("lease_s", type_=Double()))
_REMAINING = extract("epoch", commands.c.deadline_at - func.now()).label("remaining_s")
_ADD = (
    insert(commands)
    .values(
        {
            name: bindparam(name)
            for name in ("exec_id", "organisation_id", "sandbox_id", "body_sealed", "holder")
        }
        | {
            "created_at": func.now(),
            "deadline_at": in_seconds(bindparam("deadline_s", type_=Double())),
            "lease_deadline_at": _LEASE_END,
        }
    )
    .on_conflict_do_nothing(index_elements=["exec_id"])
)
_FIND = select(commands, _REMAINING).where(
    commands.c.exec_id == bindparam("exec"),
    commands.c.organisation_id == bindparam("organisation"),
    commands.c.sandbox_id == bindparam("sandbox"),
)
_LEFT = (
    select(commands.c.exec_id)
    .where(commands.c.failure_code.is_(None), commands.c.lease_deadline_at < func.now())
    .order_by(commands.c.lease_deadline_at)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
    .cte("left_commands")
)
_TAKE_OVER = (
    update(commands)
    .where(commands.c.exec_id == _LEFT.c.exec_id)
    .values(holder=bindparam("new_holder"), lease_deadline_at=_LEASE_END)
    .returning(commands, _REMAINING)
)
_THIS = commands.c.exec_id == bindparam("exec")
_HOLD = (
    update(commands).where(_THIS, commands.c.holder == bindparam("own")).values(lease_deadline_at=_LEASE_END)
)
_STARTED = delete(commands).where(_THIS)
_FAILED = (
    update(commands).where(_THIS).values(failure_code=bindparam("code"), failure_message=bindparam("why"))
)
_REMOVE_OLD = delete(commands).where(
    commands.c.failure_code.is_not(None), commands.c.deadline_at < func.now() - text("interval '1 hour'")
)


class PostgresPendingCommandStore:
    """Rows of `pending_commands`."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    async def add(self, command: PendingCommand, *, holder: str, lease_s: float) -> None:
        """Insert it, its body sealed."""
        await self._execute(
            _ADD,
            {
                "exec_id": command.exec_id,
                "organisation_id": command.organisation_id,
                "sandbox_id": command.sandbox_id,
                "body_sealed": self._sealer.seal(command.body, context=_context(command.exec_id)),
                "holder": holder,
                "lease_s": lease_s,
                "deadline_s": command.remaining_s,
            },
        )

    async def find(
        self, organisation_id: OrganisationId, sandbox_id: SandboxId, exec_id: str
    ) -> PendingCommand | None:
        """Return it."""
        parameters = {"exec": exec_id, "organisation": organisation_id, "sandbox": sandbox_id}
        row = (await self._execute(_FIND, parameters)).first()
        return None if row is None else self._command(row)

    async def take_over(self, *, holder: str, lease_s: float, limit: int) -> Sequence[PendingCommand]:
        """Lease what nobody holds."""
        parameters = {"new_holder": holder, "lease_s": lease_s, "limit": limit}
        return [self._command(row) for row in await self._execute(_TAKE_OVER, parameters)]

    async def hold(self, exec_id: ExecId, *, holder: str, lease_s: float) -> None:
        """Prolong the lease if it is the holder's."""
        await self._execute(_HOLD, {"exec": exec_id, "own": holder, "lease_s": lease_s})

    async def started(self, exec_id: ExecId) -> None:
        """Delete it."""
        await self._execute(_STARTED, {"exec": exec_id})

    async def failed(self, exec_id: ExecId, error: SandfleetError) -> None:
        """Write the reason down."""
        await self._execute(_FAILED, {"exec": exec_id, "code": error.code, "why": error.message})

    async def remove_old(self) -> int:
        """Delete what is old."""
        removed: int = (await self._execute(_REMOVE_OLD, {})).rowcount
        return removed

    async def _execute(self, statement: Any, parameters: Mapping[str, Any]) -> Any:
        return await self._database.statement(
            lambda connection: connection.execute(statement, parameters), repeatable=True
        )

    def _command(self, row: Row[Any]) -> PendingCommand:
        return PendingCommand(
            organisation_id=OrganisationId(row.organisation_id),
            sandbox_id=SandboxId(row.sandbox_id),
            exec_id=ExecId(row.exec_id),
            body=self._sealer.open(row.body_sealed, context=_context(row.exec_id)),
            failure_code=row.failure_code,
            failure_message=row.failure_message,
            remaining_s=float(row.remaining_s),
        )


def _context(exec_id: str) -> str:
    return f"command {exec_id}"
