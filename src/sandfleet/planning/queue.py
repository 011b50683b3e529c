"""Whose turn it is when creates wait for a place.

Fairness is between organisations: the first of each comes before the second of any.
Within one organisation the oldest comes first. Those ahead are given room first, so
a place that has become free goes to the one whose turn it is; somebody ahead who does
not fit blocks nobody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sandfleet.model.ids import OperationId, OrganisationId, WorkerId
from sandfleet.planning.placement import (
    FleetView,
    NoPlacement,
    Placement,
    PlacementPolicy,
    PlacementRequest,
    place,
)
from sandfleet.planning.placement_index import PlacementIndex

AHEAD_MAX = 64
"""How many that are ahead are looked at; with more of them it is not yet one's turn."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A create that found no place when it tried."""

    operation_id: OperationId
    organisation_id: OrganisationId
    created_at: datetime
    request: PlacementRequest
    excluded: frozenset[WorkerId] = frozenset()
    """Workers that refused it themselves."""


def in_turn(waiting: Sequence[Waiting]) -> list[Waiting]:
    """Return the waiting ones in the order in which they are served."""
    seen: Counter[OrganisationId] = Counter()
    ranked: list[tuple[int, Waiting]] = []
    for one in sorted(waiting, key=lambda one: (one.created_at, one.operation_id)):
        ranked.append((seen[one.organisation_id], one))
        seen[one.organisation_id] += 1
    ranked.sort(key=lambda pair: pair[0])  # stable: equal ranks stay oldest first
    return [one for _, one in ranked]


def place_in_turn(
    mine: Waiting, waiting: Sequence[Waiting], view: FleetView, policy: PlacementPolicy
) -> Placement | NoPlacement:
    """Place `mine` in what those ahead of it leave over."""
    others = [one for one in waiting if one.operation_id != mine.operation_id]
    order = in_turn([*others, mine])
    ahead = order[: next(at for at, one in enumerate(order) if one is mine)]
    alone = place(mine.request, _without(view, mine.excluded), policy)
    if isinstance(alone, NoPlacement) or not ahead:
        return alone
    if len(ahead) > AHEAD_MAX:
        return NoPlacement(refusals={}, candidates=alone.candidates, behind=len(ahead))
    left = PlacementIndex(view.workers, policy)
    for one in ahead:
        choice = left.place(one.request, excluded=one.excluded)
        if isinstance(choice, Placement):
            left.reserve(choice.worker_id, one.request.resources)
    answer = place(mine.request, _without(left.view(), mine.excluded), policy)
    return replace(answer, behind=len(ahead)) if isinstance(answer, NoPlacement) else answer


def _without(view: FleetView, excluded: frozenset[WorkerId]) -> FleetView:
    return FleetView([worker for worker in view.workers if worker.id not in excluded]) if excluded else view
