"""Where a sandbox has been, and why: read out of its transition log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sandfleet.model.ids import OperationId, WorkerId
from sandfleet.model.transition import Transition
from sandfleet.planning.placement_record import KEY

PLACED, MOVED, REFUSED, MIGRATE_REQUESTED = "placed", "moved", "refused", "migrate_requested"
_NOWHERE = frozenset({"hibernated", "stopped", "failed", "error"})
_LEAVING = frozenset({REFUSED, "recover", "cleared"})
"""Its worker refused it, or is known to have lost it."""


@dataclass(frozen=True, slots=True)
class Stay:
    """One worker that it was on, under one epoch; without an end it is there now."""

    worker_id: WorkerId
    epoch: int
    since: datetime
    cause: str
    reason: str
    until: datetime | None = None
    decision: Mapping[str, Any] = field(default_factory=dict)
    """What was recorded with it (`placement_record`)."""


def stays(log: Iterable[Transition]) -> Sequence[Stay]:
    """Return its stays, the oldest first; `log` is its rows, the oldest first."""
    found: list[Stay] = []
    moves: dict[OperationId | None, Transition] = {}
    for row in log:
        if row.event == MIGRATE_REQUESTED:
            moves[row.operation_id] = row
        stay = _begun(row, moves)
        is_over = row.event in _LEAVING or row.to_state in _NOWHERE or stay is not None
        if is_over and found and found[-1].until is None:
            found[-1] = replace(found[-1], until=row.at)
        if stay is not None:
            found.append(stay)
    return found


def _begun(row: Transition, moves: Mapping[OperationId | None, Transition]) -> Stay | None:
    if row.event not in (PLACED, MOVED) or row.worker_id is None:
        return None
    said = row if row.event == PLACED else moves.get(row.operation_id, row)
    decision = said.detail.get(KEY) or {}
    cause = decision.get("cause") or ("migrate" if row.event == MOVED else "create")
    return Stay(row.worker_id, row.epoch, row.at, cause, said.reason, decision=decision)
