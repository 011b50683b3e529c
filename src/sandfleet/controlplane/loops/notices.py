"""Drains workers whose hosts are about to be taken away: sees who says so, plans, writes the drains down.

The loop `drain` does the rest, by the same rules as for every drain. A pool that does not answer holds up
nobody: what workers say themselves is enough to begin. A silent worker whose machine its pool tells no more
of is taken off the fleet when the pool has said that the machine is gone: nothing runs there, so what it had
goes on from what was saved of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.model.drain import DrainOwner
from sandfleet.model.errors import Conflict, NotFound, PoolUnreachable, StaleTerm
from sandfleet.model.ids import WorkerId
from sandfleet.model.launch import Launch
from sandfleet.model.machine import Machine
from sandfleet.model.worker import Worker
from sandfleet.planning.fleet import DrainWorker
from sandfleet.planning.notices import NoticeView, machines_gone, missing, plan_notices
from sandfleet.ports.fleet_store import FleetDecision

ACTOR = "notice"


@dataclass(slots=True)
class NoticeLoop:
    """The leader's loop. It remembers since when machines are missing; to lose that costs a moment."""

    plane: ControlPlane
    _term: int = 0
    _missing: Mapping[WorkerId, datetime] = field(default_factory=dict)

    async def tick(self, *, term: int) -> str:
        """Look who is about to lose its host."""
        if term != self._term:
            self._term, self._missing = term, {}
        stores = self.plane.stores
        machines, silent = await self._machines()
        workers = await stores.workers.list()
        drains = {drain.worker_id: drain for drain in await stores.drains.list()}
        launches = await stores.fleet.launches() if self.plane.pools else ()
        view = NoticeView(workers, drains, machines, launches, is_complete=not silent)
        commands = plan_notices(view, now=self.plane.clock.now())
        left_out = await stores.fleet.record(FleetDecision(DrainOwner.NOTICE, commands), term=term)
        said = [
            f"{one.worker_id} is {'drained' if isinstance(one, DrainWorker) else 'kept'}: {one.reason}"
            for one in commands
        ]
        said += [f"left out: {one.because}" for one in left_out]
        said += await self._take_off(view, term=term)
        said += [f"{name} does not answer" for name in silent]
        return "; ".join(said) or "no host is about to be taken away"

    async def _take_off(self, view: NoticeView, *, term: int) -> Sequence[str]:
        """Take workers off the fleet of whose machines their pools say that they are gone."""
        now = self.plane.clock.now()
        self._missing = missing(view, self._missing, now=now)
        return [
            await self._gone(worker, launch, term=term)
            for worker, launch in machines_gone(view, self._missing, now=now)
        ]

    async def _gone(self, worker: Worker, launch: Launch, *, term: int) -> str:
        pool = self.plane.pools.get(launch.pool)
        if pool is None or launch.machine_id is None:
            return f"{worker.id}: its pool {launch.pool} is not known here"
        try:
            if not await pool.terminate(launch.machine_id, term=term):
                return f"{worker.id}: its machine ends"
            # What the pool has said stays true, whoever leads by now.
            await self.plane.stores.workers.forget(worker.id, is_lost=True, actor=ACTOR)
        except StaleTerm:
            raise
        except (PoolUnreachable, Conflict, NotFound) as error:
            return f"{worker.id}: {error.message}"
        return f"{worker.id} is taken off: its pool says that the machine is gone"

    async def _machines(self) -> tuple[Sequence[Machine], Sequence[str]]:
        """Return all machines, and the pools that did not tell theirs."""
        machines: list[Machine] = []
        silent: list[str] = []
        for name, pool in sorted(self.plane.pools.items()):
            try:
                machines += await pool.list()
            except PoolUnreachable:
                silent.append(name)
        return machines, silent
