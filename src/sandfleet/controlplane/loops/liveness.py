"""Marks workers that are silent. It never says anything about their sandboxes."""

from __future__ import annotations

from datetime import timedelta

from sandfleet.controlplane.dependencies import ControlPlane


async def tick(plane: ControlPlane, *, term: int) -> str:
    """Move ready workers that have been silent too long to `unreachable`."""
    silent_s = plane.settings.worker_silent_s
    marked = await plane.stores.workers.mark_unreachable(silent_for=timedelta(seconds=silent_s), term=term)
    if not marked:
        return "every worker is heard"
    return f"silent for {silent_s:.0f} s: {', '.join(worker.id for worker in marked)}"
