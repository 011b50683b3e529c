"""What the planners of the fleet see of a worker: its machine, who lives on it, and whose drain it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sandfleet.model.drain import Drain, DrainState
from sandfleet.model.ids import WorkerId
from sandfleet.model.launch import Launch, LaunchState, MachineSize
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.fleet import Member, Resident
from sandfleet.planning.placement import PlacementRequest, SavedState

NOT_LAUNCHED = "static/host"
"""The size of a machine that the fleet has not launched."""


@dataclass(frozen=True, slots=True)
class Known:
    """What was read of the whole fleet."""

    workers: Sequence[Worker]
    launches: Sequence[Launch]
    drains: Sequence[Drain]
    sandboxes: Mapping[WorkerId, Sequence[Sandbox]] = field(default_factory=dict)
    empty: frozenset[WorkerId] = frozenset()
    """Workers that have just said themselves that no VM is there."""


def members(known: Known, *, now: datetime) -> Sequence[Member]:
    """Return a member for each worker that is not gone."""
    joined = {one.worker_id: one for one in known.launches if one.worker_id is not None}
    launches = {**joined, **_reported(known)}
    drains = {drain.worker_id: drain for drain in known.drains}
    return [
        _member(worker, launches.get(worker.id), known, now, drain=drains.get(worker.id))
        for worker in known.workers
        if worker.state is not WorkerState.GONE
    ]


def standing_launches(known: Known) -> Sequence[Launch]:
    """Return the launches as the planner counts them: whose worker has reported is that worker."""
    reported = {launch.id for launch in _reported(known).values()}
    return [replace(one, state=LaunchState.JOINED) if one.id in reported else one for one in known.launches]


def candidates_for_removal(known: Known) -> Sequence[Worker]:
    """Return the workers that are to be asked whether they are empty: nothing else keeps them."""
    drained = {drain.worker_id for drain in known.drains}
    return [
        worker
        for worker in known.workers
        if worker.id in drained
        and worker.state is WorkerState.READY
        and worker.committed.memory_mib == 0
        and not known.sandboxes.get(worker.id)
    ]


def usual_version(workers: Sequence[Worker]) -> str:
    """Return what most workers run, empty if there are none: a machine for demand is one more of them.

    Where none is ready those count that are not heard just now: they are the fleet all the same.
    """
    there = [one for one in workers if one.state is not WorkerState.GONE]
    ready = [one for one in there if one.state is WorkerState.READY]
    counts = Counter(one.worker_version for one in ready or there)
    return max(counts, key=lambda version: (counts[version], version), default="")


def sizes_as_known(sizes: Sequence[MachineSize], members: Sequence[Member]) -> Sequence[MachineSize]:
    """Return the sizes; what they leave open of their hardware is as the workers of that size have it.

    Where there is none of that size, it is as most workers have it.
    """
    return [
        _as_known(size, [one for one in members if one.size == size.key] or members)
        if not size.accelerator
        else size
        for size in sizes
    ]


def _as_known(size: MachineSize, members: Sequence[Member]) -> MachineSize:
    hardware = Counter((one.worker.accelerator, one.worker.cpu_model) for one in members)
    if not hardware:
        return size
    accelerator, cpu_model = max(hardware, key=lambda one: (hardware[one], one))
    return replace(size, accelerator=accelerator, cpu_model=size.cpu_model or cpu_model)


def _reported(known: Known) -> Mapping[WorkerId, Launch]:
    by_machine = {
        worker.machine_id: worker.id for worker in known.workers if worker.state is not WorkerState.GONE
    }
    found: dict[WorkerId, Launch] = {}
    for launch in known.launches:
        if launch.state is LaunchState.PENDING:
            names = (by_machine.get(name) for name in sorted(launch.machine_names))
            worker_id = next((name for name in names if name is not None), None)
            if worker_id is not None:
                found[worker_id] = launch
    return found


def _member(
    worker: Worker, launch: Launch | None, known: Known, now: datetime, *, drain: Drain | None
) -> Member:
    return Member(
        worker=worker,
        size=NOT_LAUNCHED if launch is None else launch.size,
        added_at=now if launch is None else launch.ended_at or now,
        residents=_residents(worker, known.sandboxes.get(worker.id, ())),
        drained_by=None if drain is None else drain.owner,
        is_stuck=drain is not None and drain.state is DrainState.STUCK,
        is_proven_empty=worker.id in known.empty,
    )


def _residents(worker: Worker, sandboxes: Iterable[Sandbox]) -> Sequence[Resident]:
    # As a move asks for it: what it stands on travels with it, so no template is needed.
    travelling = SavedState(None, True, accelerator=worker.accelerator, host_cpu=worker.cpu_model)
    return [
        Resident(one.id, PlacementRequest(one.resources, one.template, one.region, travelling))
        for one in sandboxes
    ]
