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
"""In one round; the others have their turn in the next."""
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class OrphanLoop:
    """The leader's loop for one pool."""

    plane: ControlPlane
    pool: MachinePool
    policy: OrphanPolicy = field(default_factory=OrphanPolicy)
    _term: int = 0
    _seen: Mapping[str, datetime] = field(default_factory=dict)
    _seen_parts: Mapping[PartName, datetime] = field(default_factory=dict)

    async def tick(self, *, term: int) -> str:
        """Look at its machines, and at what no machine holds."""
        if term != self._term:
            self._term, self._seen, self._seen_parts = term, {}, {}
        said = [await look(term=term) for look in (self._look, self._look_at_parts)]
        # A pool that does not answer says so twice.
        told = "; ".join(dict.fromkeys(one for one in said if one)) or "every machine has its launch"
        return f"{self.pool.name}: {told}"

    async def _look(self, *, term: int) -> str:
        try:
            machines = await self.pool.list()
        except PoolUnreachable as error:
            return error.message
        # After the machines: what was begun meanwhile has its launch.
        launches = await self.plane.stores.fleet.launches()
        found = find_orphans(machines, launches, self._seen, self.policy, now=self.plane.clock.now())
        new = sorted(set(found.seen) - set(self._seen))
        await self._tell("orphan_seen", [{"machine": one} for one in new], NO_LAUNCH, term=term)
        self._seen = found.seen
        for machine in found.ending:
            await self.plane.stores.fleet.end_orphan(machine, pool=self.pool.name, term=term)
        if not found.seen:
            return ""
        named = ", ".join(sorted(found.seen))
        ending = f", {len(found.ending)} of them to end" if found.ending else ""
        return f"no launch owns {named}{ending}"

    async def _tell(self, event: str, about: Sequence[Mapping[str, str]], why: str, *, term: int) -> None:
        news = [FleetNews(event, why, detail={"pool": self.pool.name, **one}) for one in about]
        for one in news:
            _log.warning(event, **one.detail)
        if news:
            await self.plane.stores.fleet.tell(news, actor=ACTOR, term=term)

    async def _look_at_parts(self, *, term: int) -> str:
        before = self._seen_parts
        try:
            parts = await self.pool.parts()
            # After the parts: what was made meanwhile has its launch.
            launches = await self.plane.stores.fleet.launches()
            found = find_orphan_parts(parts, launches, before, self.policy, now=self.plane.clock.now())
            new = [{"part": f"{kind} {name}"} for kind, name in sorted(set(found.seen) - set(before))]
            await self._tell("orphan_seen", new, NO_LAUNCH_OF_PART, term=term)
            self._seen_parts = found.seen
            for part in found.removing[:REMOVALS_MAX]:
                await self.pool.remove(part, term=term)
                gone = [{"part": f"{part.kind} {part.id}"}]
                await self._tell("orphan_ended", gone, NO_LAUNCH_OF_PART, term=term)
        except PoolUnreachable as error:
            return error.message
        if not found.seen:
            return ""
        named = ", ".join(f"{kind} {name}" for kind, name in sorted(found.seen))
        removing = f", {len(found.removing)} of them to be removed" if found.removing else ""
        return f"no launch owns {named}{removing}"
