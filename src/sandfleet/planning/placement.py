"""Which worker takes a sandbox: filters with reasons, then best fit by committed memory.

Ties break by worker id, so equal views give equal plans. The decision is a value;
the store writes it down under its lock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    worker_version: str | None = None
    """Only workers of this version may take it; None where any may."""


@dataclass(frozen=True, slots=True)
class PlacementPolicy:
    """How full a worker may become. Ratios are of its total."""

    memory_ratio_max: float = 1.0
    cpu_ratio_max: float = 100.0
    disk_ratio_max: float = 100.0
    memory_used_ratio_max: float | None = None
    """Where more is promised than there is: a host that uses more than this takes nothing new."""
    host_used_ratio_max: float | None = None
    """Of the host's own memory, where its worker has said how much that is."""


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
        consider(worker, request, policy) for worker in sorted(view.workers, key=lambda worker: worker.id)
    )
    fitting = [candidate for candidate in candidates if candidate.score is not None]
    if not fitting:
        refusals = {candidate.worker_id: candidate.reason for candidate in candidates}
        return NoPlacement(refusals=refusals, candidates=candidates)
    # `max` keeps the first of equals and the candidates are sorted by id, so ties are stable.
    best = max(fitting, key=lambda candidate: candidate.score or 0.0)
    return Placement(worker_id=best.worker_id, reason=best.reason, candidates=candidates)


def consider(worker: Worker, request: PlacementRequest, policy: PlacementPolicy) -> Candidate:
    """Return the worker's score for this sandbox, or the first filter that refuses it."""
    for name, refuse in REFUSALS:
        reason = refuse(worker, request, policy)
        if reason is not None:
            return Candidate(worker.id, score=None, refused_by=name, reason=reason)
    share = share_after(worker.committed, request, worker.total)
    if request.saved is not None and request.saved.worker_id == worker.id:
        # Loading what is on the host's own disk beats every other consideration.
        beyond = policy.memory_ratio_max + share
        return Candidate(worker.id, score=beyond, refused_by=None, reason="has the saved state on its disk")
    return Candidate(worker.id, score=share, refused_by=None, reason=best_fit_reason(share))


def share_after(committed: Resources, request: PlacementRequest, total: Resources) -> float:
    """Return the share of a worker's memory that would be committed: the fullest is the best fit."""
    return (committed.memory_mib + request.resources.memory_mib) / max(1, total.memory_mib)


def best_fit_reason(share: float) -> str:
    """Say why the fullest worker takes it."""
    return f"best fit: {share:.0%} of memory committed after it"


def limits_of(worker: Worker, policy: PlacementPolicy) -> Resources:
    """Return what may be promised of a worker in all."""
    return Resources(
        memory_mib=int(worker.total.memory_mib * policy.memory_ratio_max),
        cpu_count=int(worker.total.cpu_count * policy.cpu_ratio_max),
        disk_mib=int(worker.total.disk_mib * policy.disk_ratio_max),
    )


def _state(worker: Worker, request: PlacementRequest, policy: PlacementPolicy) -> str | None:
    return None if worker.state is WorkerState.READY else f"is {worker.state}"


def _cordoned(worker: Worker, request: PlacementRequest, policy: PlacementPolicy) -> str | None:
    if worker.draining:
        return "is draining"
    return "is cordoned" if worker.cordoned else None


def _used(worker: Worker, request: PlacementRequest, policy: PlacementPolicy) -> str | None:
    if policy.host_used_ratio_max is not None and worker.host_memory_mib > 0:
        of_host = worker.memory_used_mib / worker.host_memory_mib
        if of_host > policy.host_used_ratio_max:
            return f"uses {of_host:.0%} of its host's memory"
    if policy.memory_used_ratio_max is None:
        return None
    share = worker.memory_used_mib / max(1, worker.total.memory_mib)
    return f"uses {share:.0%} of its memory" if share > policy.memory_used_ratio_max else None


def _region(worker: Worker, request: PlacementRequest, policy: PlacementPolicy) -> str | None:
    return None if worker.region == request.region else f"is in region {worker.region}"


def _version(worker: Worker, request: PlacementRequest, policy: PlacementPolicy) -> str | None:
    if request.worker_version in (None, worker.worker_version):
        return None
    return f"runs version {worker.worker_version or 'unknown'}"


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
    limit = limits_of(worker, policy).memory_mib
    return _short("memory", worker.committed.memory_mib, request.resources.memory_mib, limit)


def _cpu(worker: Worker, request: PlacementRequest, policy: PlacementPolicy) -> str | None:
    limit = limits_of(worker, policy).cpu_count
    return _short("vCPUs", worker.committed.cpu_count, request.resources.cpu_count, limit)


def _disk(worker: Worker, request: PlacementRequest, policy: PlacementPolicy) -> str | None:
    limit = limits_of(worker, policy).disk_mib
    return _short("disk", worker.committed.disk_mib, request.resources.disk_mib, limit)


def _short(what: str, committed: int, wanted: int, limit: int) -> str | None:
    if wanted > limit:
        return f"can never hold it: {wanted} of {what} wanted, {limit} in all"
    if committed + wanted > limit:
        return f"short of {what}: {limit - committed} free, {wanted} wanted"
    return None


Refuse = Callable[[Worker, PlacementRequest, PlacementPolicy], str | None]

STANDING_REFUSALS: tuple[tuple[str, Refuse], ...] = (
    ("state", _state),
    ("cordoned", _cordoned),
    ("used", _used),
)
"""They look at the worker alone: whom they refuse takes nothing, whatever is asked for."""

KIND_REFUSALS: tuple[tuple[str, Refuse], ...] = (
    ("region", _region),
    ("version", _version),
    ("template", _template),
    ("saved", _saved),
)
"""They do not look at what is committed: workers of one kind get the same answer."""

ROOM_REFUSALS: tuple[tuple[str, Refuse], ...] = (("memory", _memory), ("cpu", _cpu), ("disk", _disk))

REFUSALS = STANDING_REFUSALS + KIND_REFUSALS + ROOM_REFUSALS
