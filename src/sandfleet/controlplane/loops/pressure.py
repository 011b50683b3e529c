"""Has sandboxes leave hosts that are short of something real: sees, plans (`planning/pressure.py`), begins.

Each move and each save is an operation of its own from then on. What is remembered here may be lost with the
leader: the next one sees by itself who is short, a little later.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.loops.pressure_sight import guests_on, pressure_policy
from sandfleet.controlplane.operations.begin_migrate import begin_migrate
from sandfleet.controlplane.operations.hibernate import begin_hibernate, hibernation_ids
from sandfleet.model.errors import SandfleetError, StaleTerm, StoreUnavailable
from sandfleet.model.fleet_news import FleetNews
from sandfleet.model.ids import WorkerId, operation_id
from sandfleet.model.operation import Operation
from sandfleet.planning.pressure import Shed, plan_pressure
from sandfleet.planning.pressure_ground import PressureMemory, pressed, short_since

ACTOR = "pressure"
RELIEVED = "its host is short of nothing any more"


@dataclass(slots=True)
class PressureLoop:
    """The leader's loop. `start` runs an operation that was just written."""

    plane: ControlPlane
    start: Callable[[Operation], None]
    _term: int = 0
    _memory: PressureMemory = field(default_factory=PressureMemory)
    _pressed: frozenset[WorkerId] = frozenset()

    async def tick(self, *, term: int) -> str:
        """Look at all hosts, and relieve those that are short."""
        if term != self._term:
            self._term, self._memory, self._pressed = term, PressureMemory(), frozenset()
        policy, now = pressure_policy(self.plane), self.plane.clock.now()
        workers = await self.plane.stores.workers.list()
        since = short_since(workers, policy.marks, self._memory.since, now=now)
        self._memory = replace(self._memory, since=since)
        hosts = pressed(workers, policy.marks, since, now=now)
        found = {host.worker.id: await guests_on(self.plane, host.worker) for host in hosts}
        guests = {name: here for name, here in found.items() if here is not None}
        plan = plan_pressure(hosts, guests, workers, policy, self._memory, now=now)
        self._memory = plan.memory
        await self._tell(plan.held, term=term)
        refusals = [await self._begin(shed, term=term) for shed in plan.sheds]
        return "; ".join([plan.summary(), *(one for one in refusals if one is not None)])

    async def _tell(self, held: Mapping[WorkerId, str], *, term: int) -> None:
        """Have the log tell which hosts have begun to be short of something, and which are no more."""
        news = [FleetNews("pressed", why, name) for name, why in held.items() if name not in self._pressed]
        news += [FleetNews("relieved", RELIEVED, name) for name in sorted(self._pressed - set(held))]
        if news:
            await self.plane.stores.fleet.tell(news, actor=ACTOR, term=term)
        self._pressed = frozenset(held)

    async def _begin(self, shed: Shed, *, term: int) -> str | None:
        """Begin it; what refuses it now is said, and the next round plans anew."""
        try:
            if shed.target is None:
                operation = await begin_hibernate(
                    self.plane,
                    shed.sandbox,
                    ids=hibernation_ids(),
                    actor=ACTOR,
                    reason=shed.reason,
                    term=term,
                )
            else:
                operation = await self._move(shed, shed.target, term=term)
        except (StoreUnavailable, StaleTerm):
            raise
        except SandfleetError as error:
            return f"{shed.sandbox.id} stays for now: {error.message}"
        self.start(operation)
        return None

    async def _move(self, shed: Shed, target: WorkerId, *, term: int) -> Operation:
        return await begin_migrate(
            self.plane,
            shed.sandbox,
            target=target,
            operation_id=operation_id(secrets.token_bytes(16)),
            actor=ACTOR,
            because=shed.reason,
            term=term,
        )
