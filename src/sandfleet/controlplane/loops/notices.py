"""Drains workers whose hosts are about to be taken away: sees who says so, plans, writes the drains down.

The loop `drain` does the rest, by the same rules as for every drain. Each pool is looked at by a loop of its
own (`look`), and the planning (`tick`) takes what was seen last: a pool that hangs holds up nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.model.drain import DrainOwner
from sandfleet.model.errors import PoolUnreachable
from sandfleet.model.ids import WorkerId
from sandfleet.model.machine import Machine
from sandfleet.model.worker import Worker
from sandfleet.planning.fleet import DrainWorker
from sandfleet.planning.notices import NoticeView, plan_notices
from sandfleet.ports.fleet_store import FleetDecision
from sandfleet.ports.machine_pool import MachinePool

SEEN_WITHIN = timedelta(seconds=30)
"""What a pool has said counts for so long."""


@dataclass(slots=True)
class NoticeLoop:
    """The leader's loops; they remember what each pool said last, and when it was asked for that."""

    plane: ControlPlane
    _seen: dict[str, tuple[datetime, Sequence[Machine]]] = field(default_factory=dict)

    async def look(self, pool: MachinePool) -> str:
        """See what one pool says of its machines."""
        asked_at = self.plane.clock.now()
        try:
            machines = await pool.list()
        except PoolUnreachable as error:
            return f"{pool.name}: {error.message}"
        self._seen[pool.name] = (asked_at, machines)
        return f"{pool.name}: it tells of its machines"

    async def tick(self, *, term: int) -> str:
        """Look who is about to lose its host."""
        stores, now = self.plane.stores, self.plane.clock.now()
        seen = {name: machines for name, (at, machines) in self._seen.items() if now - at < SEEN_WITHIN}
        workers = await stores.workers.list()
        drains = {drain.worker_id: drain for drain in await stores.drains.list()}
        silent = frozenset(self.plane.pools.keys() - seen.keys())
        machines = [one for listed in seen.values() for one in listed]
        view = NoticeView(workers, drains, machines, unknown=await self._unknown(workers, silent))
        commands = plan_notices(view, now=now)
        left_out = await stores.fleet.record(FleetDecision(DrainOwner.NOTICE, commands), term=term)
        said = [
            f"{one.worker_id} is {'drained' if isinstance(one, DrainWorker) else 'kept'}: {one.reason}"
            for one in commands
        ]
        said += [f"left out: {one.because}" for one in left_out]
        said += [f"{name} does not answer" for name in sorted(silent)]
        return "; ".join(said) or "no host is about to be taken away"

    async def _unknown(self, workers: Sequence[Worker], silent: frozenset[str]) -> frozenset[WorkerId]:
        """Return the workers whose machines may be of a pool that has not said anything lately."""
        if not silent:
            return frozenset()
        launches = await self.plane.stores.fleet.launches()
        told = {name for one in launches if one.pool not in silent for name in one.machine_names}
        return frozenset(one.id for one in workers if one.machine_id not in told)
