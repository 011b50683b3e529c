"""Finds machines and parts that no launch owns. They are said for a while, and then ended.

A machine gets a launch that ends it as any other. A part is removed by its pool: nothing holds it, and of
the launch whose tag it carries there is nothing any more, for whoever leads. What was reported is remembered
by this leader alone: a new one begins to report anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.model.errors import PoolUnreachable
from sandfleet.model.fleet_news import FleetNews
from sandfleet.planning.orphans import OrphanPolicy, PartName, find_orphan_parts, find_orphans
from sandfleet.ports.fleet_store import NO_LAUNCH
from sandfleet.ports.machine_pool import MachinePool

ACTOR = "orphans"
NO_LAUNCH_OF_PART = "nothing holds it, and no launch owns it"
REMOVALS_MAX = 50
"""Of each pool in one round; the others have their turn in the next."""
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class OrphanLoop:
    """The leader's loop."""

    plane: ControlPlane
    policy: OrphanPolicy = field(default_factory=OrphanPolicy)
    _term: int = 0
    _seen: dict[str, Mapping[str, datetime]] = field(default_factory=dict)
    _seen_parts: dict[str, Mapping[PartName, datetime]] = field(default_factory=dict)

    async def tick(self, *, term: int) -> str:
        """Look at every pool that answers."""
        if term != self._term:
            self._term = term
            self._seen.clear()
            self._seen_parts.clear()
        said = [
            await look(pool, term=term)
            for _, pool in sorted(self.plane.pools.items())
            for look in (self._look, self._look_at_parts)
        ]
        # A pool that does not answer says so twice.
        return "; ".join(dict.fromkeys(one for one in said if one)) or "every machine has its launch"

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
        new = sorted(set(found.seen) - set(self._seen.get(pool.name, {})))
        await self._tell(pool, "orphan_seen", [{"machine": one} for one in new], NO_LAUNCH, term=term)
        self._seen[pool.name] = found.seen
        for machine in found.ending:
            await self.plane.stores.fleet.end_orphan(machine, pool=pool.name, term=term)
        if not found.seen:
            return ""
        named = ", ".join(sorted(found.seen))
        ending = f", {len(found.ending)} of them to end" if found.ending else ""
        return f"{pool.name}: no launch owns {named}{ending}"

    async def _tell(
        self, pool: MachinePool, event: str, about: Sequence[Mapping[str, str]], why: str, *, term: int
    ) -> None:
        news = [FleetNews(event, why, detail={"pool": pool.name, **one}) for one in about]
        for one in news:
            _log.warning(event, **one.detail)
        if news:
            await self.plane.stores.fleet.tell(news, actor=ACTOR, term=term)

    async def _look_at_parts(self, pool: MachinePool, *, term: int) -> str:
        before = self._seen_parts.get(pool.name, {})
        try:
            parts = await pool.parts()
            # After the parts: what was made meanwhile has its launch.
            launches = await self.plane.stores.fleet.launches()
            found = find_orphan_parts(parts, launches, before, self.policy, now=self.plane.clock.now())
            new = [{"part": f"{kind} {name}"} for kind, name in sorted(set(found.seen) - set(before))]
            await self._tell(pool, "orphan_seen", new, NO_LAUNCH_OF_PART, term=term)
            self._seen_parts[pool.name] = found.seen
            for part in found.removing[:REMOVALS_MAX]:
                await pool.remove(part, term=term)
                gone = [{"part": f"{part.kind} {part.id}"}]
                await self._tell(pool, "orphan_ended", gone, NO_LAUNCH_OF_PART, term=term)
        except PoolUnreachable as error:
            return f"{pool.name}: {error.message}"
        if not found.seen:
            return ""
        named = ", ".join(f"{kind} {name}" for kind, name in sorted(found.seen))
        removing = f", {len(found.removing)} of them to be removed" if found.removing else ""
        return f"{pool.name}: no launch owns {named}{removing}"
