"""A change of size where the sandbox is, or, when its worker has no room, by a move to one that has.

Everybody's changes come through here: the owner's, the guest's own, and those of the fleet. So the lock
is looked at here, on the very row that the change is written over.
"""

from __future__ import annotations

from sandfleet.controlplane.dependencies import ControlPlane, NewSize
from sandfleet.controlplane.operations.begin_migrate import begin_migrate
from sandfleet.controlplane.operations.resize import begin_resize, told
from sandfleet.model.errors import Forbidden, NoCapacity, TargetUnavailable
from sandfleet.model.operation import Operation
from sandfleet.model.sandbox import Sandbox


async def begin_resize_or_move(
    plane: ControlPlane,
    sandbox: Sandbox,
    wanted: NewSize,
    *,
    operation_id: str,
    actor: str,
    term: int | None = None,
) -> Operation:
    """Write a `resize`, or a `migrate` that grows; StaleVersion, QuotaExceeded, NoCapacity anywhere.

    Forbidden `scaling_locked`. `term`: that of the leader whose effect it is; StaleTerm.
    """
    require_unlocked(sandbox)
    try:
        return await begin_resize(plane, sandbox, wanted, operation_id=operation_id, actor=actor, term=term)
    except NoCapacity as here:
        if plane.move_client is None:
            raise
        try:
            return await begin_migrate(
                plane,
                sandbox,
                target=None,
                operation_id=operation_id,
                actor=actor,
                because=told(sandbox, wanted) if wanted.reason else "",
                term=term,
                grow=wanted,
            )
        except TargetUnavailable as elsewhere:
            raise NoCapacity(
                f"{here.message}; {elsewhere.message}", retry_after_s=elsewhere.retry_after_s
            ) from here


def require_unlocked(sandbox: Sandbox) -> None:
    """Raise Forbidden for a sandbox whose size is locked."""
    if sandbox.scaling.is_locked:
        raise Forbidden("the size of the sandbox is locked", code="scaling_locked")
