"""What the drain loop sees of a worker: who is there, how what was begun has ended, what lies there alone.

A round reads so many times whoever is there: never once for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.model.drain import Drain, Stay, StayReason
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.operation import BACKGROUND_KINDS, Operation, OperationKind, OperationState
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.planning.draining import Resident, retry_at

_LEAVING = {OperationKind.MIGRATE: StayReason.MOVING, OperationKind.HIBERNATE: StayReason.SAVING}
_BEGUN = (*_LEAVING.values(), StayReason.KEEPING)
_BUSY_STATES = (SandboxState.RUNNING, SandboxState.MIGRATING, SandboxState.HIBERNATING)


@dataclass(frozen=True, slots=True)
class Sight:
    """One worker in one round."""

    drain: Drain
    """With how what was under way has ended."""
    residents: Sequence[Resident]
    alone: Sequence[SandboxId]
    """Of whom a saved state lies there and nowhere else; those who are there themselves are left out."""


async def look(plane: ControlPlane, drain: Drain) -> Sight:
    """Read it."""
    stores, worker_id = plane.stores, drain.worker_id
    rows = await stores.sandboxes.on_worker(worker_id)
    before, drain = drain, await _with_what_ended(plane, drain)
    rows = await _as_they_were_left(plane, rows, before, drain)
    # After the rows: what begins later changes the row's version.
    busy = [row.id for row in rows if row.state in _BUSY_STATES]
    still_open = await stores.operations.open_for_all(busy)
    reserved = await stores.placements.reserved_on(worker_id)
    known = {stay.sandbox_id: stay for stay in drain.stays}
    residents = [
        _resident(row, still_open.get(row.id, ()), known.get(row.id), reserved.get(row.id, 0)) for row in rows
    ]
    here = {row.id for row in rows}
    alone = {one.sandbox_id for one in await stores.snapshots.only_on(worker_id)}
    residents = [replace(one, is_saved_here_alone=one.sandbox.id in alone) for one in residents]
    return Sight(drain, residents, sorted(alone - here))


async def _with_what_ended(plane: ControlPlane, drain: Drain) -> Drain:
    """Take in how the moves and saves ended that were under way the time before."""
    asked = [one.operation_id for one in drain.stays if one.operation_id and one.reason in _BEGUN]
    ended = {
        name: operation
        for name, operation in (await plane.stores.operations.find(asked)).items()
        if operation.state is not OperationState.RUNNING
    }
    moved, slept, stays = drain.moved, drain.slept, []
    for stay in drain.stays:
        operation = ended.get(stay.operation_id) if stay.operation_id else None
        if operation is None:
            stays.append(stay)
        elif operation.state is not OperationState.SUCCEEDED:
            stays.append(_failed(plane, stay, operation))
        elif operation.kind is OperationKind.MIGRATE:
            moved += 1
        elif operation.kind is OperationKind.CHECKPOINT:
            stays.append(_kept(stay, operation))
        else:
            slept += 1
    return replace(drain, moved=moved, slept=slept, stays=tuple(stays))


def _kept(stay: Stay, ended: Operation) -> Stay:
    """It is there still, and may move or sleep as before."""
    at = ended.finished_at or ended.created_at
    return replace(
        stay,
        reason=StayReason.HELD,
        said="a state of it is kept",
        operation_id=None,
        retry_at=None,
        kept_at=at,
    )


def _failed(plane: ControlPlane, stay: Stay, ended: Operation) -> Stay:
    attempts, what = stay.attempts + 1, f"its move to {stay.target} failed"
    if ended.kind is OperationKind.HIBERNATE:
        what = "it could not be put to sleep"
    elif ended.kind is OperationKind.CHECKPOINT:
        what = "no checkpoint of it could be taken"
    return replace(
        stay,
        reason=StayReason.HELD,
        said=f"{what}: {ended.error_message or ended.state}",
        operation_id=None,
        attempts=attempts,
        retry_at=retry_at(attempts, now=plane.clock.now()),
        has_failed_to_sleep=ended.kind is OperationKind.HIBERNATE,
        has_failed_to_be_kept=ended.kind is OperationKind.CHECKPOINT,
    )


async def _as_they_were_left(
    plane: ControlPlane, rows: Sequence[Sandbox], before: Drain, after: Drain
) -> Sequence[Sandbox]:
    """Read again of whom something has just failed: of a row that leaves still the pause is forgotten."""
    attempts = {stay.sandbox_id: stay.attempts for stay in before.stays}
    failed = {stay.sandbox_id for stay in after.stays if stay.attempts > attempts[stay.sandbox_id]}
    if not failed:
        return rows
    now = {row.id: row for row in await plane.stores.sandboxes.on_worker(before.worker_id)}
    others = [row for row in rows if row.id not in failed]
    return [*others, *(now[name] for name in sorted(failed) if name in now)]


def _resident(
    row: Sandbox, still_open: Sequence[Operation], before: Stay | None, reserved_mib: int
) -> Resident:
    if row.state not in _BUSY_STATES:
        return Resident(row, before=before, reserved_mib=reserved_mib)
    leaving = next((one for one in still_open if one.kind in _LEAVING), None)
    if leaving is not None:
        before = before or Stay(row.id, _LEAVING[leaving.kind], "")
        before = replace(before, target=_target(leaving.arguments), operation_id=leaving.id)
        return Resident(row, before=before, reserved_mib=reserved_mib)
    kinds = [one.kind for one in still_open]
    return Resident(
        row,
        under_way=next((kind.value for kind in kinds if kind not in BACKGROUND_KINDS), None),
        before=before,
        reserved_mib=reserved_mib,
        is_cleared=OperationKind.RELEASE not in kinds,
    )


def _target(arguments: Mapping[str, str]) -> WorkerId | None:
    return WorkerId(arguments["target"]) if "target" in arguments else None
