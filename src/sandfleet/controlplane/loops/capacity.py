"""Has as many workers as are needed: reads the fleet, plans (`planning/capacity.py`), writes the plan down.

Nothing is done here. Launches and ends are carried out by the loop `machines`, drains by the loop `drain`;
each command is written down in this leader's term, and left out if what happened meanwhile forbids it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.loops.fleet_reading import FleetReading
from sandfleet.model.drain import DrainOwner
from sandfleet.model.ids import OperationId
from sandfleet.planning.capacity import plan_capacity
from sandfleet.planning.membership import sizes_as_known
from sandfleet.ports.fleet_store import FleetDecision

SETTLING = timedelta(seconds=15)
"""After a beginning or an outage workers report within it; until then only who waits is launched for."""


@dataclass(slots=True)
class CapacityLoop:
    """The leader's loop; it remembers only since when it leads, and whom it has seen waiting."""

    plane: ControlPlane
    _term: int = 0
    _since: datetime | None = None
    _seen: frozenset[OperationId] = frozenset()

    async def is_due(self) -> bool:
        """Whether somebody waits whom no round has seen: what is demanded now does not wait for the next."""
        return self.plane.capacity is not None and not await self._waiting() <= self._seen

    async def tick(self, *, term: int) -> str:
        """Decide one round and write it down."""
        policy = self.plane.capacity
        if policy is None:
            return "the fleet has the workers that it is given"
        now, stores, reading = self.plane.clock.now(), self.plane.stores, FleetReading(self.plane)
        self._seen = await self._waiting()
        view = await reading.capacity_view(await reading.known(), await stores.rollouts.current())
        view = replace(view, is_settling=self._is_new(term, now))
        policy = replace(policy, sizes=sizes_as_known(policy.sizes, view.members))
        plan = plan_capacity(view, policy, await stores.fleet.memory(), now=now)
        decision = FleetDecision(DrainOwner.CAPACITY, plan.commands, plan.memory, news=plan.news)
        left_out = await stores.fleet.record(decision, term=term)
        return "; ".join([plan.summary(), *(f"left out: {one.because}" for one in left_out)])

    async def _waiting(self) -> frozenset[OperationId]:
        return frozenset(one.operation_id for one in await self.plane.stores.placements.waiting())

    def _is_new(self, term: int, now: datetime) -> bool:
        if self._since is None or term != self._term:
            self._term, self._since = term, now
        return now - self._since < SETTLING
