"""Drains workers whose hosts are about to be taken away: sees who says so, plans, writes the drains down.

The loop `drain` does the rest, by the same rules as for every drain. A pool that does not answer holds up
nobody: what workers say themselves is enough to begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.model.drain import DrainOwner
from sandfleet.model.errors import PoolUnreachable
from sandfleet.model.machine import Machine
from sandfleet.planning.fleet import DrainWorker
from sandfleet.planning.notices import NoticeView, plan_notices
from sandfleet.ports.fleet_store import FleetDecision


@dataclass(frozen=True, slots=True)
class NoticeLoop:
    """The leader's loop."""

    plane: ControlPlane

    async def tick(self, *, term: int) -> str:
        """Look who is about to lose its host."""
        stores = self.plane.stores
        machines, silent = await self._machines()
        workers = await stores.workers.list()
        drains = {drain.worker_id: drain for drain in await stores.drains.list()}
        view = NoticeView(workers, drains, machines, is_complete=not silent)
        commands = plan_notices(view, now=self.plane.clock.now())
        left_out = await stores.fleet.record(FleetDecision(DrainOwner.NOTICE, commands), term=term)
        said = [
            f"{one.worker_id} is {'drained' if isinstance(one, DrainWorker) else 'kept'}: {one.reason}"
            for one in commands
        ]
        said += [f"left out: {one.because}" for one in left_out]
        said += [f"{name} does not answer" for name in silent]
        return "; ".join(said) or "no host is about to be taken away"

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
