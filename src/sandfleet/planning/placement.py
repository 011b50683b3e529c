"""Which worker takes a sandbox: filters with reasons, then best fit by committed memory.

Ties break by worker id, so equal views give equal plans. The decision is a value;
the store writes it down under its lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sandfleet.model.ids import WorkerId
from sandfleet.model.resources import Resources
from sandfleet.model.worker import Worker, WorkerState


@dataclass(frozen=True, slots=True)
class FleetView:
    """An immutable picture of the fleet: workers with their committed sums."""

    workers: Sequence[Worker]


@dataclass(frozen=True, slots=True)
class SavedState:
    """What a sandbox is started from instead of a template: who has it, and which machine can load it."""

    worker_id: WorkerId | None
    is_durable: bool
    accelerator: str = ""
    host_cpu: str = ""


@dataclass(frozen=True, slots=True)
class PlacementRequest:
    """What one sandbox needs."""

    resources: Resources
    template: str
    region: str
    saved: SavedState | None = None


@dataclass(frozen=True, slots=True)
class PlacementPolicy:
    """How full a worker may become. Ratios are of its total."""

    memory_ratio_max: float = 1.0
    cpu_ratio_max: float = 100.0
    disk_ratio_max: float = 100.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One worker that was looked at: its score, or the filter that refused it."""

    worker_id: WorkerId
    score: float | None
    refused_by: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Placement:
    """The chosen worker and why, with every worker that was considered."""

    worker_id: WorkerId
    reason: str
    candidates: Sequence[Candidate] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class NoPlacement:
    """No worker can take it; one reason for each."""

    refusals: Mapping[WorkerId, str]
    candidates: Sequence[Candidate] = field(default_factory=tuple)
    behind: int = 0
    """How many waiting creates come first; 0 when the fleet itself has no room."""

    @property
    def is_hopeless(self) -> bool:
        """Whether there are workers and none could take it even when empty."""
        return bool(self.refusals) and all("never" in reason for reason in self.refusals.values())


def place(request: PlacementRequest, view: FleetView, policy: PlacementPolicy) -> Placement | NoPlacement:
    """Choose the fullest worker that still fits, or say of every worker why it was refused."""
    candidates = tuple(
        _consider(worker, request, policy) for worker in sorted(view.workers, key=lambda worker: worker.id)
    )
    fitting = [candidate for candidate in candidates if candidate.score is not None]
    if not fitting:
        refusals = {candidate.worker_id: candidate.reason for candidate in candidates}
        return NoPlacement(refusals=refusals, candidates=candidates)
    # `max` keeps the first of equals and the candidates are sorted by id, so ties are stable.
    best = max(fitting, key=lambda candidate: candidate.score or 0.0)
    return Placement(worker_id=best.worker_id, reason=best.reason, candidates=candidates)


def _consider(worker: Worker, request: PlacementRequest, policy: PlacementPolicy) -> Candidate:
    for name, refuse in REFUSALS:
        reason = refuse(worker, request, policy)
        if reason is not None:
            return Candidate(worker.id, score=None, refused_by=name, reason=reason)
    after = worker.committed.memory_mib + request.resources.memory_mib
    share = after / max(1, worker.total.memory_mib)
    if request.saved is not None and request.saved.worker_id == worker.id:
        # Loading what is on the host's own disk beats every other consideration.
        return Candidate(
            worker.id, score=1 + share, refused_by=None, reason="has the saved state on its disk"
        )
    return Candidate(
        worker.id, score=share, refused_by=None, reason=f"best fit: {share:.0%} of memory committed after it"
    )


def _state(worker: Worker, request: PlacementRequest, policy: PlacementPolicy) -> str | None:
    return None if worker.state is WorkerState.READY else f"is {worker.state}"


def _cordoned(worker: Worker, request: PlacementRequest, policy: PlacementPolicy) -> str | None:
    if worker.draining:
        return "is draining"
    return "is cordoned" if worker.cordoned else None


def _region(worker: Worker, request: PlacementRequest, policy: PlacementPolicy) -> str | None:
    return None if worker.region == request.region else f"is in region {worker.region}"


def _template(worker: Worker, request: PlacementRequest, policy: PlacementPolicy) -> str | None:
    if request.saved is not None:
        return None  # what is loaded brings all that it stands on; a worker that has just begun may take it
    return None if request.template in worker.templates else f"has no template {request.template}"


def _saved(worker: Worker, request: PlacementRequest, policy: PlacementPolicy) -> str | None:
    saved = request.saved
    if saved is None:
        return None
    if worker.id != saved.worker_id and not saved.is_durable:
        return "does not have the saved state, which is not durable yet"
    if saved.accelerator and saved.accelerator != worker.accelerator:
        return f"cannot load what was saved under {saved.accelerator}"
    # Emulation is the same on every host; hardware passes its processor through.
    is_bound = saved.accelerator == "kvm" and bool(saved.host_cpu)
    if is_bound and saved.host_cpu != worker.cpu_model:
        return f"cannot load what was saved on {saved.host_cpu}"
    return None


def _memory(worker: Worker, request: PlacementRequest, policy: PlacementPolicy) -> str | None:
    limit = int(worker.total.memory_mib * policy.memory_ratio_max)
    return _short("memory", worker.committed.memory_mib, request.resources.memory_mib, limit)


def _cpu(worker: Worker, request: PlacementRequest, policy: PlacementPolicy) -> str | None:
    limit = int(worker.total.cpu_count * policy.cpu_ratio_max)
    return _short("vCPUs", worker.committed.cpu_count, request.resources.cpu_count, limit)


def _disk(worker: Worker, request: PlacementRequest, policy: PlacementPolicy) -> str | None:
    limit = int(worker.total.disk_mib * policy.disk_ratio_max)
    return _short("disk", worker.committed.disk_mib, request.resources.disk_mib, limit)


def _short(what: str, committed: int, wanted: int, limit: int) -> str | None:
    if wanted > limit:
        return f"can never hold it: {wanted} of {what} wanted, {limit} in all"
    if committed + wanted > limit:
        return f"short of {what}: {limit - committed} free, {wanted} wanted"
    return None


REFUSALS = (
    ("state", _state),
    ("cordoned", _cordoned),
    ("region", _region),
    ("template", _template),
    ("saved", _saved),
    ("memory", _memory),
    ("cpu", _cpu),
    ("disk", _disk),
)
