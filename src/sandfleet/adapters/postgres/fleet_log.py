"""How a row of the transition log is written that is about the fleet and not about a sandbox.

Whoever changes something of the fleet writes such a row in the same transaction.
"""

from __future__ import annotations

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncConnection

from sandfleet.adapters.postgres.tables import transitions
from sandfleet.model.fleet_news import FleetNews


async def tell(
    connection: AsyncConnection,
    news: FleetNews,
    *,
    actor: str,
    before: str | None = None,
    after: str | None = None,
) -> None:
    """Write it down; `before` and `after` are the states of what it is about, where that has states."""
    row = transitions.insert().values(
        event=news.event,
        actor=actor,
        reason=news.reason,
        at=func.now(),
        from_state=before,
        to_state=after,
        worker_id=news.worker_id,
        epoch=0,
        detail=dict(news.detail),
    )
    await connection.execute(row)
