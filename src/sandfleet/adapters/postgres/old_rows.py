"""Deletes ended sandboxes and log rows that were kept long enough.

What still holds a reservation, an open operation or a checkpoint stays.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Interval, bindparam, delete, exists, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from sandfleet.adapters.postgres.tables import (
    checkpoints,
    operations,
    reservations,
    sandboxes,
    second_places,
    transitions,
)
from sandfleet.model.sandbox import TERMINAL_STATES

_TERMINAL = sorted(state.value for state in TERMINAL_STATES)
_ENDED = (
    select(sandboxes.c.id)
    .where(
        sandboxes.c.state.in_(_TERMINAL),
        sandboxes.c.changed_at < func.now() - bindparam("kept", type_=Interval()),
        ~exists().where(reservations.c.sandbox_id == sandboxes.c.id),
        ~exists().where(second_places.c.sandbox_id == sandboxes.c.id),
        ~exists().where(checkpoints.c.sandbox_id == sandboxes.c.id),
        ~exists().where(operations.c.sandbox_id == sandboxes.c.id, operations.c.state == "running"),
    )
    .limit(bindparam("limit"))
    .cte("ended")
)
_REMOVE_ENDED = (
    delete(sandboxes)
    .where(sandboxes.c.id.in_(select(_ENDED.c.id)))
    .add_cte(
        delete(operations)
        .where(operations.c.sandbox_id.in_(select(_ENDED.c.id)))
        .returning(operations.c.id)
        .cte("their_operations")
    )
)
_OLD_EVENTS = (
    select(transitions.c.id)
    .where(transitions.c.at < func.now() - bindparam("kept", type_=Interval()))
    .limit(bindparam("limit"))
)
_REMOVE_EVENTS = delete(transitions).where(transitions.c.id.in_(_OLD_EVENTS))


async def remove(
    connection: AsyncConnection, *, stopped_for: timedelta, events_for: timedelta, limit: int
) -> int:
    """Delete at most `limit` rows of each kind; return how many went."""
    ended = await connection.execute(_REMOVE_ENDED, {"kept": stopped_for, "limit": limit})
    events = await connection.execute(_REMOVE_EVENTS, {"kept": events_for, "limit": limit})
    return ended.rowcount + events.rowcount
