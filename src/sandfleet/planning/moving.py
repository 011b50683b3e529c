"""Where a sandbox may move to: another worker on whose processor it can go on, with room for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sandfleet.model.ids import WorkerId
from sandfleet.model.resources import Resources
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.worker import Worker
from sandfleet.planning.placement import (
    Candidate,
    FleetView,
    NoPlacement,
    Placement,
    PlacementPolicy,
    PlacementRequest,
    SavedState,
    place,
)


def choose_target(
    sandbox: Sandbox,
    view: FleetView,
    policy: PlacementPolicy,
    *,
    wanted: WorkerId | None,
    reserved_mib: int = 0,
) -> Placement | NoPlacement:
    """Return the worker, the wanted one if it is named, or say why it cannot be.

    `reserved_mib`: what is promised to it where it is; its place elsewhere is not smaller.
    """
    source = next((worker for worker in view.workers if worker.id == sandbox.worker_id), None)
    if source is None:
        return NoPlacement(refusals={}, candidates=())
    # It stands on files that the target fetches if it lacks them, so no template is asked for.
    travelling = SavedState(None, True, accelerator=source.accelerator, host_cpu=source.cpu_model)
    request = PlacementRequest(
        held_resources(sandbox, reserved_mib), sandbox.template, sandbox.region, travelling
    )
    return place(request, FleetView(_others(view.workers, source, wanted)), policy)


def held_resources(sandbox: Sandbox, reserved_mib: int) -> Resources:
    """Return what it takes up wherever it is: what its row says, or more, if more is promised to it."""
    size = sandbox.resources
    return replace(size, memory_mib=max(size.memory_mib, reserved_mib))


def _others(workers: Sequence[Worker], source: Worker, wanted: WorkerId | None) -> Sequence[Worker]:
    return [one for one in workers if one.id != source.id and wanted in (None, one.id)]


def all_candidates(choice: Placement, view: FleetView, *, source: WorkerId | None) -> Sequence[Candidate]:
    """Return what was said of every worker, also of those that the choice was not between."""
    looked_at = {one.worker_id for one in choice.candidates}
    rest = [_left_out(one.id, source) for one in view.workers if one.id not in looked_at]
    return sorted([*choice.candidates, *rest], key=lambda one: one.worker_id)


def _left_out(worker_id: WorkerId, source: WorkerId | None) -> Candidate:
    if worker_id == source:
        return Candidate(worker_id, score=None, refused_by="source", reason="is where it comes from")
    return Candidate(worker_id, score=None, refused_by="wanted", reason="is not the one that was named")
