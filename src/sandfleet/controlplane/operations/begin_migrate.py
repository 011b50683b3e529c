"""How a migration begins: with one transaction that gives it a place at its target.

It may be asked to grow there: then the place is of the new size from the beginning, and the target is one
that has room for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sandfleet.controlplane.dependencies import ControlPlane, NewSize
from sandfleet.controlplane.operations.records import UNBOUNDED_S, log_row, new_operation
from sandfleet.controlplane.operations.release import require_mover
from sandfleet.controlplane.operations.resize import TAKEN_OVER, takes_over
from sandfleet.lifecycle.sandbox import SandboxEvent, advance
from sandfleet.model.errors import BadRequest, NotFound, TargetUnavailable
from sandfleet.model.ids import OperationId, WorkerId
from sandfleet.model.operation import Operation, OperationKind
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.worker import WorkerState
from sandfleet.planning.moving import all_candidates, choose_target
from sandfleet.planning.placement import FleetView, NoPlacement, Placement
from sandfleet.planning.placement_record import placement_detail
from sandfleet.ports.move_store import MoveBeginning

RETRY_AFTER_S = 5


async def begin_migrate(  # noqa: PLR0913 -- a move, and who asks for it in which term
    plane: ControlPlane,
    sandbox: Sandbox,
    *,
    target: WorkerId | None,
    operation_id: str,
    actor: str,
    because: str = "",
    term: int | None = None,
    grow: NewSize | None = None,
) -> Operation:
    """Write `migrating`, the operation and the place at the target; StaleVersion, TargetUnavailable.

    `because`: why it is asked for, for the log. `term`: that of the leader whose effect it is; StaleTerm.
    `grow`: the size that it is to have there, which is reserved with the place; QuotaExceeded.
    """
    require_mover(plane)
    if target is not None:
        await _check_named(plane, sandbox, target)
    now, event = plane.clock.now(), SandboxEvent.MIGRATE_REQUESTED
    policy = plane.settings.placement_policy
    how, wanted = ({}, sandbox) if grow is None else _as_large(sandbox, grow)

    def begun(chosen: WorkerId) -> Operation:
        return new_operation(
            plane,
            sandbox,
            operation_id=OperationId(operation_id),
            kind=OperationKind.MIGRATE,
            step="receive",
            deadline_s=UNBOUNDED_S,
            arguments={**how, "source": sandbox.worker_id, "target": chosen, "epoch": sandbox.epoch},
        )

    after = replace(advance(sandbox, event, at=now), deadline_at=begun(WorkerId("")).deadline_at)

    def decide(view: FleetView, reserved_mib: int) -> MoveBeginning | NoPlacement:
        choice = choose_target(wanted, view, policy, wanted=target, reserved_mib=reserved_mib)
        if isinstance(choice, NoPlacement):
            return choice
        operation = begun(choice.worker_id)
        reason = f"{sandbox.worker_id} to {choice.worker_id}: {because or choice.reason}"
        log = log_row(sandbox, after, event=event, actor=actor, reason=reason, operation=operation)
        log = replace(log, detail=_detail(wanted, choice, view))
        return MoveBeginning(choice.worker_id, operation, log, memory_mib=wanted.resources.memory_mib)

    beginning = await plane.stores.moves.begin(after, decide, term=term)
    if isinstance(beginning, NoPlacement):
        raise _unavailable(beginning)
    return beginning.operation


def _detail(wanted: Sandbox, choice: Placement, view: FleetView) -> Mapping[str, Any]:
    """Return the decision, for whoever asks later why the sandbox is there."""
    candidates = all_candidates(choice, view, source=wanted.worker_id)
    return placement_detail(wanted, candidates, chosen=choice.worker_id, cause="migrate")


def _unavailable(nowhere: NoPlacement) -> TargetUnavailable:
    why = "; ".join(f"{worker} {reason}" for worker, reason in sorted(nowhere.refusals.items()))
    return TargetUnavailable(
        f"no worker can take the sandbox: {why or 'there is no other'}", retry_after_s=RETRY_AFTER_S
    )


def _as_large(sandbox: Sandbox, grow: NewSize) -> tuple[dict[str, int | None], Sandbox]:
    """Return what its operation is told of its size, and the sandbox as large as it is to be."""
    large = replace(sandbox, resources=replace(sandbox.resources, memory_mib=grow.memory_mib))
    how = {
        "memory_mib": grow.memory_mib,
        "cpu_percent": grow.cpu_percent,
        TAKEN_OVER: takes_over(sandbox, grow),
    }
    return how, large


async def require_known(plane: ControlPlane, target: WorkerId) -> None:
    """Raise NotFound for what is no worker of the fleet."""
    worker = await plane.stores.workers.get(target)
    if worker.state is WorkerState.GONE:
        raise NotFound(f"worker {target} not found")


async def _check_named(plane: ControlPlane, sandbox: Sandbox, target: WorkerId) -> None:
    await require_known(plane, target)
    if sandbox.worker_id == target:
        raise BadRequest("the sandbox is on that worker already", code="same_worker")
