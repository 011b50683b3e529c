"""Queries for what the store expects on one worker: rows, reservations and second places that name it."""

from __future__ import annotations

from sqlalchemy import bindparam, exists, or_, select

from sandfleet.adapters.postgres.reading import Query
from sandfleet.adapters.postgres.tables import operations, reservations, sandboxes, second_places
from sandfleet.model.operation import OperationKind

ON_WORKER = Query(
    select(sandboxes).where(
        or_(
            sandboxes.c.worker_id == bindparam("worker"),
            sandboxes.c.id.in_(
                select(reservations.c.sandbox_id).where(reservations.c.worker_id == bindparam("worker"))
            ),
        )
    )
)
_HAS_RESERVATION = or_(
    *[
        exists().where(table.c.sandbox_id == sandboxes.c.id, table.c.worker_id == bindparam("worker"))
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
).where(or_(sandboxes.c.worker_id == bindparam("worker"), _HAS_RESERVATION))
