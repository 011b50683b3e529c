"""The values that operations write down: new operations, ended ones, log rows."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.model.errors import SandfleetError
from sandfleet.model.ids import OperationId
from sandfleet.model.operation import Lease, Operation, OperationKind, OperationState
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.transition import Transition

UNBOUNDED_S = 365 * 86400.0
"""Deadline of what must succeed in the end: a destroy is repeated until there is proof."""


def new_operation(  # noqa: PLR0913 -- the fields of a row
    plane: ControlPlane,
    sandbox: Sandbox,
    *,
    operation_id: OperationId,
    kind: OperationKind,
    step: str,
    deadline_s: float,
    arguments: dict[str, Any] | None = None,
) -> Operation:
    """Return an operation on the sandbox whose lease is this replica's."""
    now = plane.clock.now()
    lease_until = now + timedelta(seconds=plane.settings.operation_lease_s)
    return Operation(
        id=operation_id,
        kind=kind,
        organisation_id=sandbox.organisation_id,
        sandbox_id=sandbox.id,
        state=OperationState.RUNNING,
        step=step,
        created_at=now,
        deadline_at=now + timedelta(seconds=deadline_s),
        lease=Lease(plane.replica_id, 1, lease_until),
        arguments=arguments or {},
    )


def ended(
    operation: Operation, state: OperationState, *, at: datetime, error: SandfleetError | None = None
) -> Operation:
    """Return the operation at its end."""
    return replace(
        operation,
        state=state,
        finished_at=at,
        error_code=error.code if error else None,
        error_message=error.message if error else None,
    )


def log_row(  # noqa: PLR0913 -- the fields of a row
    before: Sandbox,
    after: Sandbox,
    *,
    event: str,
    actor: str,
    reason: str,
    operation: Operation | None = None,
    detail: dict[str, Any] | None = None,
) -> Transition:
    """Return the log row of a change from `before` to `after`."""
    return Transition(
        event=event,
        actor=actor,
        reason=reason,
        at=after.changed_at,
        from_state=before.state,
        to_state=after.state,
        organisation_id=after.organisation_id,
        sandbox_id=after.id,
        worker_id=after.worker_id or before.worker_id,
        epoch=after.epoch,
        operation_id=operation.id if operation else None,
        detail=detail or {},
    )
