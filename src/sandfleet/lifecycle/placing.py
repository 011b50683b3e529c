"""What is written down when a sandbox gets its place: the rows and the log of one transaction.

Every store of placements writes exactly this, so that none of them decides anything by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from sandfleet.lifecycle import sandbox as lifecycle
from sandfleet.model.operation import Operation, OperationKind
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.transition import Transition
from sandfleet.model.worker import Worker
from sandfleet.planning.placement import Placement
from sandfleet.planning.placement_record import placement_detail

_CAUSES = {OperationKind.WAKE: "wake", OperationKind.RECOVER: "recover"}


@dataclass(frozen=True, slots=True)
class PlacedRows:
    """A sandbox on its worker, the operation that goes on with starting it, and the line in the log."""

    sandbox: Sandbox
    operation: Operation
    transition: Transition


def placed_rows(
    operation: Operation, sandbox: Sandbox, worker: Worker, *, decision: Placement, at: datetime
) -> PlacedRows:
    """Return what is to be written when the sandbox is placed on the worker."""
    owned = lifecycle.place(sandbox, worker.id, at=at)
    if sandbox.snapshot_id is None:  # what was saved brings its own version of the template along
        owned = replace(owned, template_version=worker.templates.get(sandbox.template))
    progress = {**operation.progress, "worker_id": worker.id, "worker_url": worker.http_url}
    transition = Transition(
        event="placed",
        actor="scheduler",
        reason=decision.reason,
        at=owned.changed_at,
        from_state=owned.state,
        to_state=owned.state,
        organisation_id=owned.organisation_id,
        sandbox_id=owned.id,
        worker_id=owned.worker_id,
        epoch=owned.epoch,
        operation_id=operation.id,
        detail=placement_detail(
            sandbox, decision.candidates, chosen=worker.id, cause=_cause(operation, sandbox)
        ),
    )
    return PlacedRows(owned, replace(operation, step="start", progress=progress), transition)


def _cause(operation: Operation, sandbox: Sandbox) -> str:
    if operation.kind is OperationKind.CREATE:
        return "create" if sandbox.snapshot_id is None else "fork"
    return _CAUSES.get(operation.kind, operation.kind.value)
