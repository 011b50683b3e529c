"""Marks workers that are silent, and those that are so for long. It says nothing of their sandboxes."""

from __future__ import annotations

from datetime import timedelta

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.model.worker import WorkerState


async def tick(plane: ControlPlane, *, term: int) -> str:
    """Move workers that do not speak on to `silent`, and in time to `unreachable`."""
    bounds = (
        (WorkerState.UNREACHABLE, plane.settings.worker_unreachable_s),
        (WorkerState.SILENT, plane.settings.worker_silent_s),
    )
    said = []
    for state, silent_s in bounds:
        marked = await plane.stores.workers.mark_absent(
            state, silent_for=timedelta(seconds=silent_s), term=term
        )
        if marked:
            said.append(f"{state.value} after {silent_s:.0f} s: {', '.join(one.id for one in marked)}")
    return "; ".join(said) or "every worker is heard"
