"""Takes over operations whose replica has died, on every replica."""

from __future__ import annotations

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.operations.engine import OperationEngine

BATCH_MAX = 50


async def tick(plane: ControlPlane, engine: OperationEngine) -> str:
    """Lease what nobody holds, as much as there is room for, and run it."""
    limit = min(BATCH_MAX, engine.room)
    if limit == 0:
        return "no room for operations of others"
    taken = await plane.stores.operations.take_over(
        holder=plane.replica_id, lease_s=plane.settings.operation_lease_s, limit=limit
    )
    for operation in taken:
        engine.start(operation)
    if not taken:
        return "nothing to take over"
    names = ", ".join(f"{operation.kind} {operation.id} at {operation.step}" for operation in taken)
    return f"took over {names}"
