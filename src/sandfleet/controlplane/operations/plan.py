"""What the planners would do on the fleet, as it is or thought otherwise. Nothing is performed."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.loops.fleet_reading import FleetReading
from sandfleet.controlplane.loops.pressure_sight import guests_on, pressure_policy
from sandfleet.controlplane.loops.rollout import rollout_view
from sandfleet.controlplane.operations.snapshots import saved_state
from sandfleet.model.errors import BadRequest, NotFound
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.planning.capacity import plan_capacity
from sandfleet.planning.capacity_memory import CapacityMemory
from sandfleet.planning.capacity_policy import CapacityPolicy
from sandfleet.planning.fleet import CapacityView, Member
from sandfleet.planning.fleet_changes import FleetChange, NoSuchWorker, changed
from sandfleet.planning.given_fleet import GivenFleet
from sandfleet.planning.membership import sizes_as_known, usual_version
from sandfleet.planning.placement import PlacementRequest
from sandfleet.planning.pressure import Guest, plan_pressure
from sandfleet.planning.pressure_ground import PressureMemory, pressed, short_since
from sandfleet.planning.rollout import step_rollout
from sandfleet.planning.what_if import WhatIf, emptied, placed, relieved, sized, stepped

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
NOT_SIZED = "the fleet has the workers that it is given"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. `request` is the size for `create`; the others name who it is about."""

    kind: str
    at: datetime
    request: PlacementRequest | None = None
    count: int = 1
    worker_id: WorkerId | None = None
    sandbox_id: SandboxId | None = None
    changes: Sequence[FleetChange] = field(default_factory=tuple)
    policy: CapacityPolicy | None = None
    """Instead of the fleet's own."""
    fleet: GivenFleet | None = None
    """Instead of the one that is there."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer, and the view that it stands on."""

    term: int
    view_version: str
    what_if: WhatIf


@dataclass(frozen=True, slots=True)
class _Ground:
    """What all planners of one answer see."""

    plane: ControlPlane
    view: CapacityView
    memory: CapacityMemory
    policy: CapacityPolicy | None
    guests: Mapping[WorkerId, Sequence[Guest]] | None = None
    """Of a fleet that was given; None: whoever is there is asked for."""

    def member(self, worker_id: WorkerId | None) -> Member:
        """Return the worker that is asked about; NotFound."""
        if worker_id is None:
            raise BadRequest("request.workerID is missing")
        found = next((one for one in self.view.members if one.worker.id == worker_id), None)
        if found is None:
            raise NotFound(f"worker {worker_id} not found")
        return found


async def answer(plane: ControlPlane, question: Question) -> Answered:
    """Return what the planners say; BadRequest, NotFound."""
    if question.kind not in KINDS:
        raise BadRequest(f"kind must be one of {', '.join(sorted(KINDS))}", code="invalid_argument")
    stores = plane.stores
    view, memory = await _seen(plane, question)
    term = await stores.terms.current_term()
    try:
        view = changed(view, question.changes, now=question.at)
    except NoSuchWorker as error:
        raise NotFound(f"worker {error} not found") from error
    policy = question.policy or plane.capacity
    if policy is not None:
        policy = replace(policy, sizes=sizes_as_known(policy.sizes, view.members))
    guests = None if question.fleet is None else question.fleet.guests(now=question.at)
    ground = _Ground(plane, view, memory, policy, guests)
    what_if = await KINDS[question.kind](ground, question)
    return Answered(term, _version(view, memory), what_if)


async def _seen(plane: ControlPlane, question: Question) -> tuple[CapacityView, CapacityMemory]:
    """Return the fleet as it is, or as it was given; nothing is remembered of one that was given."""
    reading = FleetReading(plane)
    if question.fleet is not None:
        version = usual_version([one.worker for one in question.fleet.workers])
        return question.fleet.view(reading.typical(), version=version), CapacityMemory()
    view = await reading.capacity_view(await reading.known(), await plane.stores.rollouts.current())
    return view, await plane.stores.fleet.memory()


async def _create(ground: _Ground, question: Question) -> WhatIf:
    if question.request is None:
        raise BadRequest("request is missing")
    wanted = [(f"sandbox-{number}", question.request) for number in range(1, question.count + 1)]
    return _placed(ground, wanted, command="place")


async def _wake(ground: _Ground, question: Question) -> WhatIf:
    if question.sandbox_id is None:
        raise BadRequest("request.sandboxID is missing")
    stores = ground.plane.stores
    row = await stores.sandboxes.get_any(question.sandbox_id)
    if row.snapshot_id is None:
        raise BadRequest(f"nothing is saved of sandbox {row.id}")
    saved = saved_state(await stores.snapshots.get(row.snapshot_id))
    request = PlacementRequest(row.resources, row.template, row.region, saved)
    return _placed(ground, [(str(row.id), request)], command="wake")


async def _drain(ground: _Ground, question: Question) -> WhatIf:
    return _emptied(ground, ground.member(question.worker_id), is_removed=False)


async def _remove_worker(ground: _Ground, question: Question) -> WhatIf:
    return _emptied(ground, ground.member(question.worker_id), is_removed=True)


async def _capacity(ground: _Ground, question: Question) -> WhatIf:
    if ground.policy is None:
        return WhatIf(NOT_SIZED)
    return sized(plan_capacity(ground.view, ground.policy, ground.memory, now=question.at))


async def _rollout(ground: _Ground, question: Question) -> WhatIf:
    plane = ground.plane
    stored = await plane.stores.rollouts.current()
    if ground.policy is None:
        return WhatIf(NOT_SIZED)
    if stored is None:
        return WhatIf("no other version was asked for")
    view = await rollout_view(plane, stored, ground.view, ground.policy)
    return stepped(step_rollout(stored.rollout, view, plane.rollout, now=question.at))


async def _pressure(ground: _Ground, question: Question) -> WhatIf:
    """What would be done if what the hosts report now lasted."""
    policy, now = pressure_policy(ground.plane), question.at
    workers = [one.worker for one in ground.view.members]
    since = short_since(workers, policy.marks, {}, now=LONG_AGO)
    hosts = pressed(workers, policy.marks, since, now=now)
    guests = ground.guests
    if guests is None:
        found = {host.worker.id: await guests_on(ground.plane, host.worker) for host in hosts}
        guests = {name: here for name, here in found.items() if here is not None}
    memory = PressureMemory(since)
    return relieved(plan_pressure(hosts, guests, workers, policy, memory, now=now))


async def _tick(ground: _Ground, question: Question) -> WhatIf:
    """All that the leader would do next: capacity, pressure, and what drains goes on."""
    said = await _capacity(ground, question)
    said = said + await _pressure(ground, question)
    for member in ground.view.members:
        if member.is_draining and member.residents:
            said = said + _emptied(ground, member, is_removed=False)
    return said


def _placed(ground: _Ground, wanted: Sequence[tuple[str, PlacementRequest]], *, command: str) -> WhatIf:
    workers = [one.worker for one in ground.view.members]
    return placed(wanted, workers, ground.plane.settings.placement_policy, command=command)


def _emptied(ground: _Ground, member: Member, *, is_removed: bool) -> WhatIf:
    policy = ground.plane.settings.placement_policy
    return emptied(member, ground.view.members, policy, is_removed=is_removed)


def _version(view: CapacityView, memory: CapacityMemory) -> str:
    """Name the view by what is in it: equal views have equal names."""
    return hashlib.sha256(f"{view!r} {memory!r}".encode()).hexdigest()[:16]


KINDS: Mapping[str, Callable[[_Ground, Question], Awaitable[WhatIf]]] = {
    "create": _create,
    "wake": _wake,
    "drain": _drain,
    "remove_worker": _remove_worker,
    "capacity": _capacity,
    "pressure": _pressure,
    "rollout": _rollout,
    "tick": _tick,
}
