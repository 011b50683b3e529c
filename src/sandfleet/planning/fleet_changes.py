"""The fleet thought otherwise: workers and sandboxes that are not there, or not there any more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.launch import MachineSize
from sandfleet.planning.fleet import CapacityView, Member, Resident
from sandfleet.planning.membership import usual_version
from sandfleet.planning.placement import PlacementRequest
from sandfleet.planning.sizes_to_launch import empty_worker


@dataclass(frozen=True, slots=True)
class AddWorkers:
    """So many empty workers more, of one size."""

    count: int
    size: MachineSize
    template: str
    version: str | None = None
    """Without it, what most workers run."""


@dataclass(frozen=True, slots=True)
class WithoutWorker:
    """A worker less. What lived on it waits for a place."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class AddSandboxes:
    """So many sandboxes more: on a worker, or waiting for a place."""

    count: int
    request: PlacementRequest
    worker_id: WorkerId | None = None


FleetChange = AddWorkers | WithoutWorker | AddSandboxes


class NoSuchWorker(LookupError):
    """A change names a worker that is not there."""


def changed(view: CapacityView, changes: Iterable[FleetChange], *, now: datetime) -> CapacityView:
    """Return the view with the changes, in their order; NoSuchWorker."""
    for number, change in enumerate(changes, start=1):
        match change:
            case AddWorkers():
                view = _with_workers(view, change, number, now)
            case WithoutWorker():
                view = _without(view, change.worker_id)
            case AddSandboxes():
                view = _with_sandboxes(view, change, number)
    return view


def _with_workers(view: CapacityView, change: AddWorkers, number: int, now: datetime) -> CapacityView:
    version = change.version or usual_version([one.worker for one in view.members])
    added = [
        Member(
            empty_worker(
                f"wk-new-{number}-{count}", change.size, version=version, templates={change.template: ""}
            ),
            change.size.key,
            now,
        )
        for count in range(1, change.count + 1)
    ]
    return replace(view, members=(*view.members, *added))


def _without(view: CapacityView, worker_id: WorkerId) -> CapacityView:
    gone = _member(view, worker_id)
    staying = tuple(one for one in view.members if one is not gone)
    return replace(view, members=staying, queue=(*view.queue, *(one.request for one in gone.residents)))


def _with_sandboxes(view: CapacityView, change: AddSandboxes, number: int) -> CapacityView:
    if change.worker_id is None:
        return replace(view, queue=(*view.queue, *[change.request] * change.count))
    member = _member(view, change.worker_id)
    more = [
        Resident(SandboxId(f"sb-new-{number}-{count}"), change.request)
        for count in range(1, change.count + 1)
    ]
    committed = member.worker.committed
    for _ in more:
        committed = committed + change.request.resources
    fuller = replace(
        member,
        worker=replace(member.worker, committed=committed),
        residents=(*member.residents, *more),
    )
    return replace(view, members=tuple(fuller if one is member else one for one in view.members))


def _member(view: CapacityView, worker_id: WorkerId) -> Member:
    found = next((one for one in view.members if one.worker.id == worker_id), None)
    if found is None:
        raise NoSuchWorker(worker_id)
    return found
