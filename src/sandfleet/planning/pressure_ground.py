"""What a host is short of: its real memory, CPU and disk, as its worker's heartbeats say, and since when.

Rule 1: a host is short from the high mark on and until it is below the low one, not from a moment's peak.
Rule 2: what was not said is not judged. A worker that is not heard of is not, either.
Rule 3: of a large disk only so much is counted: a share of it that is left may be more than enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.worker import Worker, WorkerState

DISK_COUNTED_MIB = 200 * 1024
KEPT = timedelta(hours=1)


class Shortage(StrEnum):
    """What a host has too little of. The order is that in which they are seen to."""

    MEMORY = "memory"
    DISK = "disk"
    CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Marks:
    """Shares of what the host has. From `critical` on nobody waits `sustained_s`."""

    high: float
    low: float
    critical: float
    sustained_s: float


USUAL_MARKS: Mapping[Shortage, Marks] = {
    Shortage.MEMORY: Marks(high=0.92, low=0.85, critical=0.97, sustained_s=10),
    Shortage.DISK: Marks(high=0.95, low=0.90, critical=0.98, sustained_s=30),
    # A busy host is slow, and loses nothing: it may be so for a while.
    Shortage.CPU: Marks(high=0.95, low=0.80, critical=2.0, sustained_s=120),
}


@dataclass(frozen=True, slots=True)
class Load:
    """How much is used of how much: MiB, or cores."""

    used: float
    total: float

    @property
    def share(self) -> float:
        """The used part."""
        return self.used / self.total


@dataclass(frozen=True, slots=True)
class PressureMemory:
    """Since when which host is short, and what was done about it. It may be lost: then all begins anew."""

    since: Mapping[tuple[WorkerId, Shortage], datetime] = field(default_factory=dict)
    shed_at: Mapping[WorkerId, datetime] = field(default_factory=dict)
    """When something was last seen to leave a host for this."""
    chosen_at: Mapping[SandboxId, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pressed:
    """A host that is short for long enough that something is to be done."""

    worker: Worker
    shortages: Sequence[Shortage]


def load_of(worker: Worker, shortage: Shortage) -> Load | None:
    """Return how much of it is used; None when the worker has not said."""
    if shortage is Shortage.MEMORY and worker.host_memory_mib > 0:
        return Load(worker.memory_used_mib, worker.host_memory_mib)
    if shortage is Shortage.DISK and worker.host_disk_mib > 0:
        counted = min(worker.host_disk_mib, DISK_COUNTED_MIB)
        free = max(0, worker.host_disk_mib - worker.disk_used_mib)
        return Load(max(0, counted - free), counted)
    if shortage is Shortage.CPU and worker.host_cpus > 0:
        return Load(worker.cpu_percent / 100 * worker.host_cpus, worker.host_cpus)
    return None


def short_since(
    workers: Sequence[Worker],
    marks: Mapping[Shortage, Marks],
    before: Mapping[tuple[WorkerId, Shortage], datetime],
    *,
    now: datetime,
) -> Mapping[tuple[WorkerId, Shortage], datetime]:
    """Return who is short of what, and since when."""
    after: dict[tuple[WorkerId, Shortage], datetime] = {}
    for worker in workers:
        for shortage, mark in marks.items():
            load = load_of(worker, shortage)
            if load is None or worker.state is not WorkerState.READY:
                continue
            key = worker.id, shortage
            if key in before and load.share >= mark.low:
                after[key] = before[key]
            elif load.share >= mark.high:
                after[key] = now
    return after


def pressed(
    workers: Sequence[Worker],
    marks: Mapping[Shortage, Marks],
    since: Mapping[tuple[WorkerId, Shortage], datetime],
    *,
    now: datetime,
) -> Sequence[Pressed]:
    """Return the hosts about which something is to be done now."""
    found = []
    for worker in workers:
        due = [
            one
            for one in Shortage
            if (worker.id, one) in since and _is_due(worker, one, marks[one], now - since[worker.id, one])
        ]
        if due:
            found.append(Pressed(worker, due))
    return found


def _is_due(worker: Worker, shortage: Shortage, mark: Marks, lasted: timedelta) -> bool:
    load = load_of(worker, shortage)
    is_critical = load is not None and load.share >= mark.critical
    return is_critical or lasted.total_seconds() >= mark.sustained_s
