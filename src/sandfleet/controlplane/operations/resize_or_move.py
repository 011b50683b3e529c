"""A change of size where the sandbox is, or, when its worker has no room, by a move to one that has."""

from __future__ import annotations

from sandfleet.controlplane.dependencies import ControlPlane, NewSize
from sandfleet.controlplane.operations.begin_migrate import begin_migrate
from sandfleet.controlplane.operations.resize import begin_resize
from sandfleet.model.errors import NoCapacity, TargetUnavailable
from sandfleet.model.operation import Operation
from sandfleet.model.sandbox import Sandbox


async def begin_resize_or_move(
    plane: ControlPlane, sandbox: Sandbox, wanted: NewSize, *, operation_id: str, actor: str
) -> Operation:
    """Write a `resize`, or a `migrate` that grows; StaleVersion, QuotaExceeded, NoCapacity anywhere."""
    try:
        return await begin_resize(plane, sandbox, wanted, operation_id=operation_id, actor=actor)
    except NoCapacity as here:
        if plane.move_client is None:
            raise
        try:
            return await begin_migrate(
                plane, sandbox, target=None, operation_id=operation_id, actor=actor, grow=wanted
            )
        except TargetUnavailable as elsewhere:
            raise NoCapacity(
                f"{here.message}; {elsewhere.message}", retry_after_s=elsewhere.retry_after_s
            ) from here
