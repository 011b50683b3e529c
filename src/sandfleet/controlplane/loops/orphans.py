"""Finds machines that no launch owns. They are said for a while, and then ended as given-up launches are.

What was reported is remembered by this leader alone: a new one begins to report anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.model.errors import PoolUnreachable
from sandfleet.planning.orphans import OrphanPolicy, find_orphans
from sandfleet.ports.machine_pool import MachinePool

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class OrphanLoop:
    """The leader's loop."""

    plane: ControlPlane
    policy: OrphanPolicy = field(default_factory=OrphanPolicy)
    _term: int = 0
    _seen: dict[str, Mapping[str, datetime]] = field(default_factory=dict)

    async def tick(self, *, term: int) -> str:
        """Look at every pool that answers."""
        if term != self._term:
            self._term = term
            self._seen.clear()
        said = [await self._look(pool, term=term) for _, pool in sorted(self.plane.pools.items())]
        return "; ".join(one for one in said if one) or "every machine has its launch"

    async def _look(self, pool: MachinePool, *, term: int) -> str:
        try:
            machines = await pool.list()
        except PoolUnreachable as error:
            return f"{pool.name}: {error.message}"
        # After the machines: what was begun meanwhile has its launch.
        launches = await self.plane.stores.fleet.launches()
        found = find_orphans(
            machines, launches, self._seen.get(pool.name, {}), self.policy, now=self.plane.clock.now()
        )
        for machine_id in sorted(set(found.seen) - set(self._seen.get(pool.name, {}))):
            _log.warning("orphan", pool=pool.name, machine=machine_id)
        self._seen[pool.name] = found.seen
        for machine in found.ending:
            await self.plane.stores.fleet.end_orphan(machine, pool=pool.name, term=term)
        if not found.seen:
            return ""
        named = ", ".join(sorted(found.seen))
        ending = f", {len(found.ending)} of them to end" if found.ending else ""
        return f"{pool.name}: no launch owns {named}{ending}"
