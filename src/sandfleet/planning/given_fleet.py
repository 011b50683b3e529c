"""A fleet that somebody describes, in place of the one that is there: what the planners would see of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sandfleet.model.drain import DrainOwner
from sandfleet.model.ids import OrganisationId, SandboxId, WorkerId
from sandfleet.model.resources import NOTHING, Resources
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.worker import Worker
from sandfleet.planning.fleet import CapacityView, Member, Resident
from sandfleet.planning.placement import PlacementRequest
from sandfleet.planning.pressure import Guest
from sandfleet.planning.pressure_ground import Shortage

NOBODY = OrganisationId("")


@dataclass(frozen=True, slots=True)
class GivenSandbox:
    """One that runs; `uses` is what would be measured of it."""

    id: SandboxId
    resources: Resources
    template: str
    region: str
    uses: Mapping[Shortage, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GivenWorker:
    """One worker with who lives there. What is promised of it follows from them."""

    worker: Worker
    size: str
    added_at: datetime
    sandboxes: Sequence[GivenSandbox] = ()


@dataclass(frozen=True, slots=True)
class GivenFleet:
    """All workers, and the creates that wait, in their order."""

    workers: Sequence[GivenWorker]
    waiting: Sequence[PlacementRequest] = ()

    def view(self, typical: PlacementRequest, *, version: str) -> CapacityView:
        """Return what the planners see of it."""
        return CapacityView(
            members=[_member(one) for one in self.workers],
            queue=self.waiting,
            typical=typical,
            version=version,
        )

    def guests(self, *, now: datetime) -> Mapping[WorkerId, Sequence[Guest]]:
        """Return who would be found on each worker that is short of something."""
        return {
            one.worker.id: [_guest(sandbox, one.worker.id, now) for sandbox in one.sandboxes]
            for one in self.workers
        }


def _member(given: GivenWorker) -> Member:
    committed = sum((one.resources for one in given.sandboxes), start=NOTHING)
    residents = [
        Resident(one.id, PlacementRequest(one.resources, one.template, one.region)) for one in given.sandboxes
    ]
    return Member(
        worker=replace(given.worker, committed=committed),
        size=given.size,
        added_at=given.added_at,
        residents=residents,
        drained_by=DrainOwner.OPERATOR if given.worker.draining else None,
        is_proven_empty=not residents,
    )


def _guest(given: GivenSandbox, worker_id: WorkerId, now: datetime) -> Guest:
    row = Sandbox(
        id=given.id,
        organisation_id=NOBODY,
        state=SandboxState.RUNNING,
        version=1,
        epoch=1,
        worker_id=worker_id,
        template=given.template,
        resources=given.resources,
        region=given.region,
        created_at=now,
        changed_at=now,
    )
    return Guest(row, uses=given.uses, reserved_mib=given.resources.memory_mib)
