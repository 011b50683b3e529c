"""What the capacity planner must still know after a restart, as a value that goes through JSON unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sandfleet.model.ids import WorkerId
from sandfleet.model.launch import Launch, LaunchId, LaunchState, MachineSize
from sandfleet.planning.backoff import Backoff, after_failure, concerned
from sandfleet.planning.capacity_figures import CapacityFigures
from sandfleet.planning.demand import DemandHistory

BOOTS_KEPT = 20
RETURNED_KEPT = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class CapacityMemory:
    """Everything that one tick leaves for the next."""

    demand: DemandHistory = field(default_factory=DemandHistory)
    boots_s: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """How long the last machines of each size took to join."""
    backoffs: Mapping[str, Backoff] = field(default_factory=dict)
    launches: int = 0
    """Counts all launches: the next one's id is made from it."""
    launched_at: datetime | None = None
    drained_at: datetime | None = None
    """When the last drain began."""
    returned_at: Mapping[WorkerId, datetime] = field(default_factory=dict)
    """When a drain of ours was called off: that worker is not chosen again at once."""
    settled: Sequence[LaunchId] = ()
    """Ended launches that were counted already."""
    figures: CapacityFigures | None = None
    """What the last round found."""

    def with_launches(self, launches: Iterable[Launch]) -> CapacityMemory:
        """Learn from the launches that have ended since: boot times, back-offs, and what ends them."""
        boots = {size: list(times) for size, times in self.boots_s.items()}
        launches = sorted(launches, key=lambda one: one.id)
        backoffs, known = dict(self.backoffs), set(self.settled)
        # What the view no longer tells of need not be remembered: so this stays as short as the view.
        settled = [launch.id for launch in launches if launch.id in known]
        for launch in launches:
            if launch.state is LaunchState.PENDING or launch.id in known or launch.ended_at is None:
                continue
            settled.append(launch.id)
            if launch.failure is not None:
                key = concerned(launch.size, launch.failure)
                backoffs[key] = after_failure(backoffs.get(key), launch.failure, at=launch.ended_at)
            else:
                backoffs.pop(launch.size, None)
                backoffs.pop(launch.size.partition("/")[0], None)
                took_s = (launch.ended_at - launch.requested_at).total_seconds()
                boots[launch.size] = [*boots.get(launch.size, ()), took_s][-BOOTS_KEPT:]
        return replace(
            self,
            boots_s={size: tuple(times) for size, times in boots.items()},
            backoffs=backoffs,
            settled=tuple(settled),
        )

    def boot_s(self, size: MachineSize) -> float:
        """Return how long a machine of this size takes to join, in nine of ten cases."""
        times = sorted(self.boots_s.get(size.key, ()))
        return times[(len(times) * 9 - 1) // 10] if times else size.boot_s

    def with_returned(self, workers: Iterable[WorkerId], *, now: datetime) -> CapacityMemory:
        """Note whose drain is called off."""
        kept = {one: at for one, at in self.returned_at.items() if now - at < RETURNED_KEPT}
        return replace(self, returned_at=kept | dict.fromkeys(workers, now))

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "demand": self.demand.to_json(),
            "boots_s": {size: list(times) for size, times in self.boots_s.items()},
            "backoffs": {key: backoff.to_json() for key, backoff in self.backoffs.items()},
            "launches": self.launches,
            "launched_at": _written(self.launched_at),
            "drained_at": _written(self.drained_at),
            "returned_at": {worker: at.isoformat() for worker, at in self.returned_at.items()},
            "settled": list(self.settled),
            "figures": None if self.figures is None else self.figures.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CapacityMemory:
        """Return what `to_json` wrote."""
        return cls(
            demand=DemandHistory.from_json(value["demand"]),
            boots_s={size: tuple(times) for size, times in value["boots_s"].items()},
            backoffs={key: Backoff.from_json(one) for key, one in value["backoffs"].items()},
            launches=value["launches"],
            launched_at=_read(value["launched_at"]),
            drained_at=_read(value["drained_at"]),
            returned_at={
                WorkerId(one): datetime.fromisoformat(at) for one, at in value["returned_at"].items()
            },
            settled=tuple(LaunchId(one) for one in value["settled"]),
            figures=CapacityFigures.from_json(value["figures"]) if value.get("figures") else None,
        )


def _written(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _read(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)
