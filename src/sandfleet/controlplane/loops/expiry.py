"""Begins to expire sandboxes whose idle time is over."""

from __future__ import annotations

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.operations.engine import OperationEngine
from sandfleet.controlplane.operations.expire import begin_expire
from sandfleet.model.errors import StaleVersion
from sandfleet.planning.expiry import due

BATCH_MAX = 50


async def tick(plane: ControlPlane, engine: OperationEngine, *, term: int) -> str:
    """Move the rows that are due out of `running`, each with its operation."""
    candidates = await plane.stores.sandboxes.idle_candidates(limit=BATCH_MAX)
    commands = due(candidates, now=plane.clock.now(), limit=min(BATCH_MAX, engine.room))
    begun = 0
    for command in commands:
        try:
            operation = await begin_expire(plane, command.sandbox, idle_s=command.idle_s, term=term)
        except StaleVersion:
            continue  # something happened to it meanwhile; the next tick sees what
        await plane.routes.forget(command.sandbox.id)
        engine.start(operation)
        begun += 1
    return f"{begun} of {len(commands)} idle sandboxes began to expire" if commands else "nothing is idle"
