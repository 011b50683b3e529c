"""Takes workers for lost whose machines are gone by their pools' word, so that their sandboxes come back.

A machine that its pool does not list any more is told to end first, and what follows waits for the word that
it has: so what may run there after all, unheard, is no second copy of anything. Then the worker is off the
fleet, reconcile recovers its sandboxes, `machines` ends the launch, and capacity has another in its place.
Nothing is remembered here: the time of the last heartbeat and the launch stand in their rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.model.errors import PoolUnreachable
from sandfleet.model.launch import Launch
from sandfleet.model.worker import Worker
from sandfleet.planning.absence import GONE_BY_ITS_POOL, is_missing, overdue
from sandfleet.ports.machine_pool import MachinePool

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LostWorkerLoop:
    """The leader's loop for one pool."""

    plane: ControlPlane
    pool: MachinePool

    async def tick(self, *, term: int) -> str:
        """Ask the pool about those that have been unreachable for long."""
        stores, name = self.plane.stores, self.pool.name
        workers = await stores.workers.list()
        policy, now = self.plane.settings.absence_policy, self.plane.clock.now()
        missed = overdue(workers, await stores.fleet.launches(), policy, now=now)
        suspects = [(worker, launch) for worker, launch in missed if launch.pool == name]
        return f"{name}: {await self._look(suspects, term=term)}"

    async def _look(self, suspects: Sequence[tuple[Worker, Launch]], *, term: int) -> str:
        if not suspects:
            return "no worker is missed for long"
        lost: list[Worker] = []
        there: list[Worker] = []
        try:
            machines = await self.pool.list()
            for worker, launch in suspects:
                is_gone = is_missing(launch, machines)
                if is_gone and launch.machine_id is not None:
                    is_gone = await self.pool.terminate(launch.machine_id, term=term)
                (lost if is_gone else there).append(worker)
        except PoolUnreachable as error:
            return error.message
        ended = [one.id for one in lost if await self._lose(one, term=term)]
        told = [f"{', '.join(ended)} lost"] if ended else []
        told += [f"{', '.join(one.id for one in there)} unreachable, and there by its word"] if there else []
        return "; ".join(told) or "who was missed speaks again"

    async def _lose(self, worker: Worker, *, term: int) -> bool:
        is_lost = await self.plane.stores.fleet.lose(worker.id, because=GONE_BY_ITS_POOL, term=term)
        if is_lost:
            _log.warning("worker_lost", worker=worker.id, machine=worker.machine_id)
        return is_lost
