"""Removes what has been kept long enough."""

from __future__ import annotations

from datetime import timedelta

from sandfleet.controlplane.dependencies import ControlPlane


async def tick(plane: ControlPlane) -> str:
    """Delete ended sandboxes, log rows, idempotency keys, failed commands and launches, past their age."""
    settings = plane.settings
    rows = await plane.stores.sandboxes.remove_old(
        stopped_for=timedelta(days=settings.stopped_kept_days),
        events_for=timedelta(days=settings.events_kept_days),
    )
    keys = await plane.stores.idempotency.remove_old()
    await plane.stores.commands.remove_old()
    await plane.stores.fleet.remove_old(gone_for=timedelta(days=settings.events_kept_days))
    return f"removed {rows} old rows and {keys} idempotency keys" if rows + keys else "nothing is old"
