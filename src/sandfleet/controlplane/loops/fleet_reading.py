"""Reads what the planners of the fleet see: workers, machines and drains, who lives where, and who waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.model.errors import SandfleetError
from sandfleet.model.ids import WorkerId
from sandfleet.model.resources import Resources
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.fleet import CapacityView
from sandfleet.planning.membership import (
    Known,
    candidates_for_removal,
    members,
    standing_launches,
    usual_version,
)
from sandfleet.planning.placement import PlacementRequest
from sandfleet.planning.queue import in_turn
from sandfleet.ports.rollout_store import StoredRollout

TEMPLATE = "base"
_AT_ONCE = 8
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FleetReading:
    """One reading serves one round of one planner."""

    plane: ControlPlane

    async def known(self) -> Known:
        """Return the fleet as it is, with a fresh word of those that may be empty."""
        stores = self.plane.stores
        # Workers before launches: whose worker has reported had its launch by then.
        workers = await stores.workers.list()
        known = Known(workers, await stores.fleet.launches(), await stores.drains.list())
        known = replace(known, sandboxes=await self._sandboxes(workers))
        return replace(known, empty=await self._empty(candidates_for_removal(known)))

    async def capacity_view(self, known: Known, rollout: StoredRollout | None) -> CapacityView:
        """Return what the planner of capacity sees of it; a roll-out says what a machine boots."""
        view = CapacityView(
            members=members(known, now=self.plane.clock.now()),
            launches=standing_launches(known),
            queue=[one.request for one in in_turn(await self.plane.stores.placements.waiting())],
            typical=self.typical(),
            version=usual_version(known.workers),
        )
        if rollout is None:
            return view
        return replace(view, version=rollout.rollout.base_version, surge=rollout.surge)

    async def _sandboxes(self, workers: Sequence[Worker]) -> Mapping[WorkerId, Sequence[Sandbox]]:
        """Return who lives where."""
        here = [one for one in workers if one.state is not WorkerState.GONE]
        found = await each(here, lambda one: self.plane.stores.sandboxes.on_worker(one.id))
        return {worker.id: rows for worker, rows in zip(here, found, strict=True)}

    async def _empty(self, workers: Sequence[Worker]) -> frozenset[WorkerId]:
        """Return which of them say now that no VM is there; who does not answer has said nothing."""

        async def is_empty(worker: Worker) -> bool:
            try:
                return not await self.plane.worker_client.vms(worker.id, worker.http_url)
            except SandfleetError:
                return False

        answers = await each(workers, is_empty)
        return frozenset(worker.id for worker, empty in zip(workers, answers, strict=True) if empty)

    def typical(self) -> PlacementRequest:
        """Return what is usually asked for."""
        settings = self.plane.settings
        size = Resources(settings.memory_default_mb, 1, settings.disk_default_mb)
        return PlacementRequest(size, TEMPLATE, settings.region)


async def each(workers: Sequence[Worker], ask: Callable[[Worker], Awaitable[T]]) -> Sequence[T]:
    """Ask after each of them, some at a time; answers in their order."""
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def one(worker: Worker) -> T:
        async with at_once:
            return await ask(worker)

    async with TaskGroup() as tasks:
        asked = [tasks.create_task(one(worker)) for worker in workers]
    return [task.result() for task in asked]
