"""What is written down when a sandbox gets its place: the rows and the log of one transaction.

Every store of placements writes exactly this, so that none of them decides anything by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from sandfleet.lifecycle import sandbox as lifecycle
from sandfleet.model.operation import Operation
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.transition import Transition
from sandfleet.model.worker import Worker


@dataclass(frozen=True, slots=True)
class PlacedRows:
    """A sandbox on its worker, the operation that goes on with starting it, and the line in the log."""

    sandbox: Sandbox
    operation: Operation
    transition: Transition


def placed_rows(
    operation: Operation, sandbox: Sandbox, worker: Worker, *, reason: str, at: datetime
) -> PlacedRows:
    """Return what is to be written when the sandbox is placed on the worker."""
    owned = lifecycle.place(sandbox, worker.id, at=at)
    if sandbox.snapshot_id is None:  # what was saved brings its own version of the template along
        owned = replace(owned, template_version=worker.templates.get(sandbox.template))
    progress = {**operation.progress, "worker_id": worker.id, "worker_url": worker.http_url}
    transition = Transition(
        event="placed",
        actor="scheduler",
        reason=reason,
        at=owned.changed_at,
        from_state=owned.state,
        to_state=owned.state,
        organisation_id=owned.organisation_id,
        sandbox_id=owned.id,
        worker_id=owned.worker_id,
        epoch=owned.epoch,
        operation_id=operation.id,
    )
    return PlacedRows(owned, replace(operation, step="start", progress=progress), transition)
