"""Has as many workers as are needed: reads the fleet, plans (`planning/capacity.py`), writes the plan down.

Nothing is done here. Launches and ends are carried out by the loop `machines`, drains by the loop `drain`;
each command is written down in this leader's term, and left out if what happened meanwhile forbids it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.model.drain import DrainOwner
from sandfleet.model.errors import SandfleetError
from sandfleet.model.ids import WorkerId
from sandfleet.model.resources import Resources
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.capacity import plan_capacity
from sandfleet.planning.fleet import CapacityView
from sandfleet.planning.membership import (
    Known,
    candidates_for_removal,
    members,
    sizes_as_known,
    standing_launches,
)
from sandfleet.planning.placement import PlacementRequest
from sandfleet.planning.queue import in_turn
from sandfleet.ports.fleet_store import FleetDecision

TEMPLATE = "base"
_AT_ONCE = 8
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CapacityLoop:
    """The leader's loop."""

    plane: ControlPlane

    async def tick(self, *, term: int) -> str:
        """Decide one round and write it down."""
        policy = self.plane.capacity
        if policy is None:
            return "the fleet has the workers that it is given"
        now = self.plane.clock.now()
        view = await self._view()
        policy = replace(policy, sizes=sizes_as_known(policy.sizes, view.members))
        plan = plan_capacity(view, policy, await self.plane.stores.fleet.memory(), now=now)
        decision = FleetDecision(DrainOwner.CAPACITY, plan.commands, plan.memory)
        left_out = await self.plane.stores.fleet.record(decision, term=term)
        return "; ".join([plan.summary(), *(f"left out: {one.because}" for one in left_out)])

    async def _view(self) -> CapacityView:
        stores, now = self.plane.stores, self.plane.clock.now()
        # Workers before launches: whose worker has reported had its launch by then.
        workers = await stores.workers.list()
        known = Known(workers, await stores.fleet.launches(), await stores.drains.list())
        known = replace(known, sandboxes=await self._sandboxes(workers))
        known = replace(known, empty=await self._empty(candidates_for_removal(known)))
        return CapacityView(
            members=members(known, now=now),
            launches=standing_launches(known),
            queue=[one.request for one in in_turn(await stores.placements.waiting())],
            typical=self._typical(),
            version=_usual_version(workers),
        )

    async def _sandboxes(self, workers: Sequence[Worker]) -> Mapping[WorkerId, Sequence[Sandbox]]:
        """Return who lives where."""
        here = [one for one in workers if one.state is not WorkerState.GONE]
        found = await _each(here, lambda one: self.plane.stores.sandboxes.on_worker(one.id))
        return {worker.id: rows for worker, rows in zip(here, found, strict=True)}

    async def _empty(self, workers: Sequence[Worker]) -> frozenset[WorkerId]:
        """Return which of them say now that no VM is there; who does not answer has said nothing."""

        async def is_empty(worker: Worker) -> bool:
            try:
                return not await self.plane.worker_client.vms(worker.id, worker.http_url)
            except SandfleetError:
                return False

        answers = await _each(workers, is_empty)
        return frozenset(worker.id for worker, empty in zip(workers, answers, strict=True) if empty)

    def _typical(self) -> PlacementRequest:
        settings = self.plane.settings
        size = Resources(settings.memory_default_mb, 1, settings.disk_default_mb)
        return PlacementRequest(size, TEMPLATE, settings.region)


async def _each(workers: Sequence[Worker], ask: Callable[[Worker], Awaitable[T]]) -> Sequence[T]:
    """Ask after each of them, some at a time; answers in their order."""
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def one(worker: Worker) -> T:
        async with at_once:
            return await ask(worker)

    async with TaskGroup() as tasks:
        asked = [tasks.create_task(one(worker)) for worker in workers]
    return [task.result() for task in asked]


def _usual_version(workers: Sequence[Worker]) -> str:
    """Return what most workers run: a machine for demand is one more of them."""
    counts = Counter(one.worker_version for one in workers if one.state is WorkerState.READY)
    return max(counts, key=lambda version: (counts[version], version), default="")
