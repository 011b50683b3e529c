"""Queries for what the store expects on one worker: rows, reservations and second places that name it.

The names are collected first, each part by its index: with an OR of them PostgreSQL would look at every
sandbox that ever was, for each worker in each round of the leader's loops.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BindParameter, Text, bindparam, exists, or_, select, union

from sandfleet.adapters.postgres.reading import Query
from sandfleet.adapters.postgres.tables import operations, reservations, sandboxes, second_places
from sandfleet.model.operation import OperationKind

_WORKER: BindParameter[str] = bindparam("worker", type_=Text())


def _named_by(*places: Any) -> Any:
    """Return the ids of the sandboxes whose rows, or whose places in these tables, name the worker."""
    parts = [select(table.c.sandbox_id).where(table.c.worker_id == _WORKER) for table in places]
    return union(select(sandboxes.c.id).where(sandboxes.c.worker_id == _WORKER), *parts)


ON_WORKER = Query(select(sandboxes).where(sandboxes.c.id.in_(_named_by(reservations))))
_HAS_RESERVATION = or_(
    *[
        exists().where(table.c.sandbox_id == sandboxes.c.id, table.c.worker_id == _WORKER)
        for table in (reservations, second_places)
    ]
)
# What goes on whatever becomes of the machine says nothing about who looks after that.
_HAS_KEEPER = exists().where(
    operations.c.sandbox_id == sandboxes.c.id,
    operations.c.state == "running",
    operations.c.kind.not_in((OperationKind.UPLOAD.value, OperationKind.RELEASE.value)),
)
PRESENCE = select(
    sandboxes.c.id,
    sandboxes.c.state,
    sandboxes.c.epoch,
    _HAS_RESERVATION.label("has_reservation"),
    _HAS_KEEPER.label("has_open_operation"),
).where(sandboxes.c.id.in_(_named_by(reservations, second_places)))
