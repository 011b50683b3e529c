"""Quotas: what counts against them, and the one place that lets a sandbox in."""

from __future__ import annotations

from sqlalchemy import bindparam, exists, func, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from sandfleet.adapters.postgres import rows
from sandfleet.adapters.postgres.tables import organisations, reservations, sandboxes, second_places
from sandfleet.model.errors import NotFound, QuotaExceeded
from sandfleet.model.ids import OrganisationId
from sandfleet.model.organisation import Quotas, first_excess
from sandfleet.model.resources import Resources
from sandfleet.model.sandbox import SandboxState

_LOCK = select(organisations).where(organisations.c.id == bindparam("id")).with_for_update(key_share=True)
# What has a reservation counts until its worker has proven that nothing is left of it;
# what is being created or woken counts before it has one.
_COUNTED = union_all(
    select(
        # Of a sandbox that moves to grow, the larger of its two places.
        func.greatest(reservations.c.memory_mib, func.coalesce(second_places.c.memory_mib, 0)).label(
            "memory_mib"
        ),
        reservations.c.cpu_count,
        reservations.c.disk_mib,
    )
    .select_from(
        reservations.outerjoin(second_places, second_places.c.sandbox_id == reservations.c.sandbox_id)
    )
    .where(reservations.c.organisation_id == bindparam("id")),
    select(sandboxes.c.memory_mib, sandboxes.c.cpu_count, sandboxes.c.disk_mib).where(
        sandboxes.c.organisation_id == bindparam("id"),
        sandboxes.c.state.in_([SandboxState.CREATING.value, SandboxState.WAKING.value]),
        ~exists().where(reservations.c.sandbox_id == sandboxes.c.id),
    ),
).subquery()
_USAGE = select(
    func.count(),
    func.coalesce(func.sum(_COUNTED.c.cpu_count), 0),
    func.coalesce(func.sum(_COUNTED.c.memory_mib), 0),
    func.coalesce(func.sum(_COUNTED.c.disk_mib), 0),
)


async def lock_organisation(connection: AsyncConnection, organisation_id: OrganisationId) -> Quotas:
    """Take the organisation's row lock until the transaction ends, and return its quotas."""
    row = (await connection.execute(_LOCK, {"id": organisation_id})).first()
    if row is None:
        raise NotFound(f"organisation {organisation_id} not found")
    return rows.quotas_from(row)


async def usage(connection: AsyncConnection, organisation_id: OrganisationId) -> Quotas:
    """Return what counts against the organisation's quotas."""
    count, vcpu, memory, disk = (await connection.execute(_USAGE, {"id": organisation_id})).one()
    return Quotas(sandboxes=count, vcpu=int(vcpu), memory_mib=int(memory), disk_mib=int(disk))


async def admit(
    connection: AsyncConnection, organisation_id: OrganisationId, quotas: Quotas, wanted: Resources
) -> None:
    """Raise QuotaExceeded if one more of that size is too much; the caller holds the lock."""
    if quotas == Quotas():
        return
    excess = first_excess(quotas, await usage(connection, organisation_id), wanted)
    if excess is not None:
        raise QuotaExceeded(
            f"the quota {excess.quota} of {excess.limit} is used up",
            details={"quota": excess.quota, "limit": excess.limit, "used": excess.used},
        )
