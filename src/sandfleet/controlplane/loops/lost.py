"""Takes workers for lost whose machines are gone by their pools' word, so that their sandboxes come back.

A machine that its pool does not list any more is told to end first, and what follows waits for the word that
it has: so what may run there after all, unheard, is no second copy of anything. Then the worker is off the
fleet, reconcile recovers its sandboxes, `machines` ends the launch, and capacity has another in its place.
Nothing is remembered here: the time of the last heartbeat and the launch stand in their rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.model.errors import PoolUnreachable
from sandfleet.model.launch import Launch
from sandfleet.model.worker import Worker
from sandfleet.planning.absence import GONE_BY_ITS_POOL, is_missing, overdue

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LostWorkerLoop:
    """The leader's loop."""

    plane: ControlPlane

    async def tick(self, *, term: int) -> str:
        """Ask the pools of those that have been unreachable for long."""
        stores = self.plane.stores
        workers = await stores.workers.list()
        policy, now = self.plane.settings.absence_policy, self.plane.clock.now()
        suspects: dict[str, list[tuple[Worker, Launch]]] = defaultdict(list)
        for worker, launch in overdue(workers, await stores.fleet.launches(), policy, now=now):
            suspects[launch.pool].append((worker, launch))
        said = [await self._look(name, of_it, term=term) for name, of_it in sorted(suspects.items())]
        return "; ".join(said) or "no worker is missed for long"

    async def _look(self, name: str, suspects: Sequence[tuple[Worker, Launch]], *, term: int) -> str:
        pool = self.plane.pools.get(name)
        if pool is None:
            return f"{name}: there is no such pool here"
        lost: list[Worker] = []
        there: list[Worker] = []
        try:
            machines = await pool.list()
            for worker, launch in suspects:
                is_gone = is_missing(launch, machines)
                if is_gone and launch.machine_id is not None:
                    is_gone = await pool.terminate(launch.machine_id, term=term)
                (lost if is_gone else there).append(worker)
        except PoolUnreachable as error:
            return f"{name}: {error.message}"
        ended = [one.id for one in lost if await self._lose(one, term=term)]
        told = [f"{', '.join(ended)} lost"] if ended else []
        told += [f"{', '.join(one.id for one in there)} unreachable, and there by its word"] if there else []
        return f"{name}: {'; '.join(told) or 'who was missed speaks again'}"

    async def _lose(self, worker: Worker, *, term: int) -> bool:
        is_lost = await self.plane.stores.fleet.lose(worker.id, because=GONE_BY_ITS_POOL, term=term)
        if is_lost:
            _log.warning("worker_lost", worker=worker.id, machine=worker.machine_id)
        return is_lost
