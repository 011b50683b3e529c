"""What a round of the capacity planner found, as numbers and as news: for metrics, and for the log.

It is written down with the round, so that every replica tells the same, and a new leader what was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from sandfleet.model.fleet_news import FleetNews
from sandfleet.model.launch import LaunchState
from sandfleet.model.worker import WorkerState
from sandfleet.planning.capacity_policy import CapacityPolicy
from sandfleet.planning.fleet import CapacityView, frozen_because

if TYPE_CHECKING:
    from sandfleet.planning.capacity import CapacityPlan
    from sandfleet.planning.capacity_memory import CapacityMemory

THAWED = "enough workers are heard of again"


@dataclass(frozen=True, slots=True)
class CapacityFigures:
    """One round. Workers and machines are counted, demand is in MiB."""

    desired: int = 0
    current: int = 0
    """There or on their way, and not on their way out."""
    launching: int = 0
    draining: int = 0
    occupied: int = 0
    standing: int = 0
    idle_reserve: int = 0
    surge: int = 0
    workers_max: int = 0
    queued: int = 0
    queued_mib: int = 0
    unplaced: int = 0
    """Of them, those that no worker and no machine which may be had could hold."""
    demand_mib: int = 0
    launches_left: int = 0
    """How many more may be asked for now."""
    drains_left: int = 0
    drains_refused: int = 0
    sizes_refused: int = 0
    frozen: str = ""
    held: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CapacityFigures:
        """Return what `to_json` wrote, of this version or another."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: one for name, one in value.items() if name in known})


def with_figures(
    plan: CapacityPlan, view: CapacityView, policy: CapacityPolicy, *, before: CapacityMemory
) -> CapacityPlan:
    """Return the plan with what it found, and with what is new since the round before."""
    figures = _figures(plan, view, policy)
    memory = replace(plan.memory, figures=figures)
    return replace(plan, memory=memory, news=tuple(_news(before, memory)))


def _figures(plan: CapacityPlan, view: CapacityView, policy: CapacityPolicy) -> CapacityFigures:
    present = [one for one in view.members if one.worker.state is not WorkerState.GONE]
    launching = sum(one.state is LaunchState.PENDING for one in view.launches)
    draining = sum(one.is_draining for one in present)
    queued_mib = sum(request.resources.memory_mib for request in view.queue)
    room = policy.workers_max + view.surge.above_max - len(present) - launching
    needed = plan.needed
    return CapacityFigures(
        desired=needed.desired,
        current=plan.current,
        launching=launching,
        draining=draining,
        occupied=needed.occupied,
        standing=needed.standing,
        idle_reserve=needed.idle_reserve,
        surge=needed.surge,
        workers_max=needed.workers_max,
        queued=len(view.queue),
        queued_mib=queued_mib,
        unplaced=plan.unplaced,
        demand_mib=queued_mib + sum(one.worker.committed.memory_mib for one in view.members),
        launches_left=max(0, min(room, policy.launches_at_once - launching)),
        drains_left=max(0, policy.drains_at_once - draining),
        drains_refused=len(plan.refused_workers),
        sizes_refused=len(plan.refused_sizes),
        frozen=frozen_because(view.members) or "",
        held=plan.held,
    )


def _news(before: CapacityMemory, after: CapacityMemory) -> Iterator[FleetNews]:
    frozen = "" if after.figures is None else after.figures.frozen
    was_frozen = "" if before.figures is None else before.figures.frozen
    if bool(frozen) is not bool(was_frozen):
        yield FleetNews("frozen", frozen) if frozen else FleetNews("unfrozen", THAWED)
    for key, backoff in sorted(after.backoffs.items()):
        if before.backoffs.get(key) != backoff:
            until = f"{backoff.until:%Y-%m-%d %H:%M:%S}"
            reason = f"{key} failed {backoff.failures} times ({backoff.why}): not asked before {until}"
            yield FleetNews("backed_off", reason, detail={"size": key})
