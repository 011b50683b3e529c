"""The hosts of a virtual fleet and what lives on them; commands change them as the real ones are changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sandfleet.model.drain import DrainOwner
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.launch import MachineSize
from sandfleet.model.resources import Resources
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.fleet import Member, Resident
from sandfleet.planning.placement import PlacementPolicy, PlacementRequest
from sandfleet.planning.placement_index import PlacementIndex
from sandfleet.planning.sizes_to_launch import empty_worker

TEMPLATE = "base"


class BrokenPromise(AssertionError):
    """A command did what no fleet may do."""


@dataclass(slots=True)
class Host:
    """One worker. `leaving` are residents that move away, and are still here."""

    worker_id: WorkerId
    size: MachineSize
    added_at: datetime
    residents: dict[SandboxId, PlacementRequest] = field(default_factory=dict)
    leaving: set[SandboxId] = field(default_factory=set)
    coming: int = 0
    drained_by: DrainOwner | None = None
    _member: Member | None = None


class Hosts:
    """All of them, with the index in which sandboxes are placed."""

    def __init__(self, policy: PlacementPolicy) -> None:
        self.index = PlacementIndex((), policy)
        self.policy = policy
        self.by_id: dict[WorkerId, Host] = {}

    def __len__(self) -> int:
        return len(self.by_id)

    def add(self, name: str, size: MachineSize, *, version: str, at: datetime) -> Host:
        """Let one join."""
        worker = empty_worker(name, size, version=version, templates={TEMPLATE: "1"})
        host = Host(worker.id, size, at)
        self.by_id[worker.id] = host
        self.index.put(worker)
        return host

    def worker(self, worker_id: WorkerId) -> Worker:
        """Return a worker as it stands."""
        return self.index.worker(worker_id)

    def set_state(self, worker_id: WorkerId, state: WorkerState) -> None:
        """Change what is observed of a worker."""
        self._put(worker_id, lambda worker: replace(worker, state=state))

    def take(self, worker_id: WorkerId, sandbox_id: SandboxId, request: PlacementRequest) -> None:
        """Let a sandbox live here. Its place was reserved."""
        host = self._changed(worker_id)
        host.residents[sandbox_id] = request

    def reserve(self, worker_id: WorkerId, resources: Resources) -> None:
        """Promise a place; nothing may be promised by a worker that takes nothing, or beyond its limit."""
        worker = self.worker(worker_id)
        after = worker.committed + resources
        if worker.draining or worker.cordoned or worker.state is not WorkerState.READY:
            raise BrokenPromise(f"placed on {worker_id}, which takes nothing")
        if after.memory_mib > int(worker.total.memory_mib * self.policy.memory_ratio_max):
            raise BrokenPromise(
                f"{worker_id} is promised {after.memory_mib} of {worker.total.memory_mib} MiB"
            )
        self._changed(worker_id)
        self.index.reserve(worker_id, resources)

    def release(self, worker_id: WorkerId, sandbox_id: SandboxId) -> None:
        """Let a sandbox go."""
        host = self._changed(worker_id)
        host.leaving.discard(sandbox_id)
        self.index.release(worker_id, host.residents.pop(sandbox_id).resources)

    def give_back(self, worker_id: WorkerId, resources: Resources) -> None:
        """Take a promise back of which nothing came."""
        self._changed(worker_id)
        self.index.release(worker_id, resources)

    def drain(self, worker_id: WorkerId, owner: DrainOwner) -> Host:
        """Let nothing more in."""
        host = self._changed(worker_id)
        if host.drained_by is not None:
            raise BrokenPromise(f"{worker_id} is drained by {host.drained_by} already")
        host.drained_by = owner
        self._put(worker_id, lambda worker: replace(worker, draining=True))
        return host

    def keep(self, worker_id: WorkerId, owner: DrainOwner) -> None:
        """Call a drain off."""
        host = self._changed(worker_id)
        if host.drained_by is not owner:
            raise BrokenPromise(f"{owner} calls off what {host.drained_by} began on {worker_id}")
        host.drained_by = None
        self._put(worker_id, lambda worker: replace(worker, draining=False))

    def remove(self, worker_id: WorkerId) -> Host:
        """End a machine."""
        host = self.by_id[worker_id]
        if host.residents or host.coming or self.worker(worker_id).committed.memory_mib:
            raise BrokenPromise(f"{worker_id} is ended with {len(host.residents)} sandboxes")
        if host.drained_by is None:
            raise BrokenPromise(f"{worker_id} is ended without a drain")
        self.index.drop(worker_id)
        return self.by_id.pop(worker_id)

    def members(self) -> Sequence[Member]:
        """Return what the planners see."""
        return [self._member(host) for host in self.by_id.values()]

    def _member(self, host: Host) -> Member:
        if host._member is None:
            residents = [Resident(one, request) for one, request in host.residents.items()]
            host._member = Member(
                worker=self.worker(host.worker_id),
                size=host.size.key,
                added_at=host.added_at,
                residents=residents,
                drained_by=host.drained_by,
                is_proven_empty=not residents and host.coming == 0,
            )
        return host._member

    def _changed(self, worker_id: WorkerId) -> Host:
        host = self.by_id[worker_id]
        host._member = None
        return host

    def _put(self, worker_id: WorkerId, change: Callable[[Worker], Worker]) -> None:
        self._changed(worker_id)
        self.index.put(change(self.worker(worker_id)))


def prices(hosts: Iterable[Host]) -> float:
    """Return what these cost in an hour."""
    return sum(host.size.price_per_hour for host in hosts)
