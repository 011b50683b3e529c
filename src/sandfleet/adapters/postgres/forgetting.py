"""Taking a worker off the fleet: only when nothing depends on it, or on somebody's word that it is lost.

The machine that the fleet has launched for it is to end then: nobody else would ever end it.
"""

from __future__ import annotations

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from sandfleet.adapters.postgres.fleet_log import tell
from sandfleet.adapters.postgres.tables import (
    launches,
    reservations,
    sandboxes,
    second_places,
    snapshots,
    workers,
)
from sandfleet.model.errors import Conflict, NotFound
from sandfleet.model.fleet_news import FleetNews
from sandfleet.model.ids import WorkerId
from sandfleet.model.sandbox import TERMINAL_STATES
from sandfleet.model.snapshot import SnapshotState
from sandfleet.model.worker import WorkerState
from sandfleet.ports.worker_store import EMPTY, SAID_TO_BE_LOST

_GONE = WorkerState.GONE.value
_TERMINAL = [state.value for state in TERMINAL_STATES]
_NOWHERE_ELSE = [SnapshotState.SAVING.value, SnapshotState.LOCAL.value]
_FORGET = (
    update(workers)
    .where(workers.c.id == bindparam("worker"))
    .values(state=_GONE, version=workers.c.version + 1, gone_because=bindparam("because"))
)
_END_MACHINE = (
    update(launches)
    .where(launches.c.worker_id == bindparam("worker"), launches.c.gone_at.is_(None))
    .values(ending_since=func.coalesce(launches.c.ending_since, func.now()))
)
_DEPENDANTS = select(
    workers.c.state,
    select(func.count())
    .select_from(sandboxes)
    .where(sandboxes.c.worker_id == workers.c.id, sandboxes.c.state.not_in(_TERMINAL))
    .scalar_subquery()
    .label("sandboxes"),
    select(func.count())
    .select_from(reservations)
    .where(reservations.c.worker_id == workers.c.id)
    .scalar_subquery()
    .label("reservations"),
    select(func.count())
    .select_from(second_places)
    .where(second_places.c.worker_id == workers.c.id)
    .scalar_subquery()
    .label("moving"),
    select(func.count())
    .select_from(snapshots)
    .where(snapshots.c.worker_id == workers.c.id, snapshots.c.state.in_(_NOWHERE_ELSE))
    .scalar_subquery()
    .label("snapshots"),
).where(workers.c.id == bindparam("worker"))


async def forget_worker(
    connection: AsyncConnection,
    worker_id: WorkerId,
    *,
    is_lost: bool,
    actor: str,
    because: str | None = None,
) -> None:
    """Move it to `gone`; NotFound, Conflict. The caller holds the lock of placements."""
    before = await _before_the_end(connection, worker_id, is_lost=is_lost)
    if before != _GONE:
        because = because or (SAID_TO_BE_LOST if is_lost else EMPTY)
        await connection.execute(_FORGET, {"worker": worker_id, "because": because})
        news = FleetNews("forgotten", because, worker_id)
        await tell(connection, news, actor=actor, before=before, after=_GONE)
    await connection.execute(_END_MACHINE, {"worker": worker_id})


async def _before_the_end(connection: AsyncConnection, worker_id: WorkerId, *, is_lost: bool) -> str:
    """Return the worker's state if it may be forgotten."""
    row = (await connection.execute(_DEPENDANTS, {"worker": worker_id})).first()
    if row is None:
        raise NotFound(f"worker {worker_id} not found")
    if row.state == _GONE:
        return str(row.state)
    if is_lost and row.state == WorkerState.READY.value:
        raise Conflict(f"worker {worker_id} speaks: it is not lost", code="worker_alive")
    held = {
        "sandboxes": row.sandboxes,
        "reservations": row.reservations + row.moving,
        "snapshots": row.snapshots,
    }
    if not is_lost and any(held.values()):
        counts = ", ".join(f"{count} {name}" for name, count in held.items() if count)
        raise Conflict(f"worker {worker_id} is not empty: {counts}", code="worker_not_empty", details=held)
    return str(row.state)
