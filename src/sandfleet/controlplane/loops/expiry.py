"""Begins to hibernate sandboxes whose idle time is over; without an object store, to stop them."""

from __future__ import annotations

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.operations.engine import OperationEngine
from sandfleet.controlplane.operations.expire import ACTOR, begin_expire
from sandfleet.controlplane.operations.hibernate import begin_hibernate, hibernation_ids
from sandfleet.model.errors import StaleVersion
from sandfleet.model.operation import BACKGROUND_KINDS, Operation
from sandfleet.planning.expiry import Expire, due

BATCH_MAX = 50


async def tick(plane: ControlPlane, engine: OperationEngine, *, term: int) -> str:
    """Move the rows that are due out of `running`, each with its operation."""
    candidates = await plane.stores.sandboxes.idle_candidates(limit=BATCH_MAX)
    commands = due(candidates, now=plane.clock.now(), limit=min(BATCH_MAX, engine.room))
    begun = 0
    for command in commands:
        try:
            operation = await _begin(plane, command, term=term)
        except StaleVersion:
            continue  # something happened to it meanwhile; the next tick sees what
        if operation is None:
            continue
        await plane.routes.forget(command.sandbox.id)
        engine.start(operation)
        begun += 1
    return f"{begun} of {len(commands)} idle sandboxes began to expire" if commands else "nothing is idle"


async def _begin(plane: ControlPlane, command: Expire, *, term: int) -> Operation | None:
    """Begin to save it, or to stop it where nothing can be saved; None while something is done to it."""
    sandbox = command.sandbox
    if any(one.kind not in BACKGROUND_KINDS for one in await plane.stores.operations.open_for(sandbox.id)):
        return None
    if plane.settings.blob_store_url is None:
        return await begin_expire(plane, sandbox, idle_s=command.idle_s, term=term)
    return await begin_hibernate(
        plane, sandbox, ids=hibernation_ids(), actor=ACTOR, idle_s=command.idle_s, term=term
    )
