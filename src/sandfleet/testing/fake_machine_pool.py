"""A machine pool in memory whose machines take their time, with the faults that real ones have."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from sandfleet.model.errors import MachineRefused, PoolUnreachable, StaleTerm
from sandfleet.model.launch import LaunchFailure, LaunchId, MachineSize
from sandfleet.model.machine import Machine, MachineOrder, MachinePart, MachineState, PartKind
from sandfleet.ports.clock import Clock
from sandfleet.testing.builders import resources

SMALL = MachineSize("fake", "small", resources(8192, cpu_count=4, disk_mib=200_000), boot_s=30.0)
LARGE = MachineSize("fake", "large", resources(32768, cpu_count=16, disk_mib=800_000), boot_s=60.0)


@dataclass(slots=True)
class FakeAccount:
    """What all fleets of one provider have there."""

    machines: dict[str, tuple[str, Machine]] = field(default_factory=dict)
    """By id, with the fleet's tag."""
    ended_at: dict[str, datetime] = field(default_factory=dict)
    """When a machine was told to end."""
    parts: dict[str, tuple[str, MachinePart]] = field(default_factory=dict)
    """What nothing holds, by id, with the fleet's tag."""
    terms: dict[str, int] = field(default_factory=dict)
    begun: int = 0


class FakeMachinePool:
    """One fleet's pool. What is to fail is set on it."""

    name = "fake"

    def __init__(
        self, clock: Clock, account: FakeAccount, *, fleet: str = "fleet", end_s: float = 10.0
    ) -> None:
        self.sizes: Sequence[MachineSize] = (SMALL, LARGE)
        self.refusals: deque[LaunchFailure] = deque()
        """How the next launches are refused."""
        self.is_unreachable = False
        self.answers_lost = 0
        """How many of the next calls do their work and are not answered."""
        self._clock, self._account, self._fleet, self._end_s = clock, account, fleet, end_s

    async def launch(self, order: MachineOrder, *, term: int) -> Machine:
        """Begin a machine, or return the one that is there."""
        self._reach(term)
        found = self._of(order.launch_id)
        if found is not None and self._is_gone(found):
            raise MachineRefused(
                f"the machine of {order.launch_id} has ended already", failure=LaunchFailure.BROKEN
            )
        machine = self._begun(order) if found is None else self._seen(found)
        self._answer()
        return machine

    async def list(self) -> Sequence[Machine]:
        """Return those that are not gone."""
        self._reach(None)
        living = [one for one in self._mine() if not self._is_gone(one)]
        self._answer()
        return sorted((self._seen(one) for one in living), key=lambda one: one.id)

    async def terminate(self, machine_id: str, *, term: int) -> bool:
        """Have it end."""
        self._reach(term)
        found = next((one for one in self._mine() if one.id == machine_id), None)
        if found is not None:
            self._account.ended_at.setdefault(machine_id, self._clock.now())
        self._answer()
        return found is None or self._is_gone(found)

    async def parts(self) -> Sequence[MachinePart]:
        """Return what was left."""
        self._reach(None)
        mine = [part for fleet, part in self._account.parts.values() if fleet == self._fleet]
        self._answer()
        return sorted(mine, key=lambda one: (one.kind, one.id))

    async def remove(self, part: MachinePart, *, term: int) -> bool:
        """Have it gone from the next call on."""
        self._reach(term)
        fleet, _ = self._account.parts.get(part.id, (None, None))
        if fleet == self._fleet:
            del self._account.parts[part.id]
        self._answer()
        return fleet != self._fleet

    def leave_part(
        self, kind: PartKind, *, launch_id: LaunchId | None, made_at: datetime | None
    ) -> MachinePart:
        """Have a part there that nothing holds."""
        part = MachinePart(kind, f"p-{len(self._account.parts) + 1:04}", launch_id, made_at)
        self._account.parts[part.id] = (self._fleet, part)
        return part

    def fail_machine(self, machine_id: str, failure: LaunchFailure) -> None:
        """Have a machine that was begun come to nothing."""
        fleet, machine = self._account.machines[machine_id]
        failed = replace(machine, failure=failure, said="it was begun, and then there was none")
        self._account.machines[machine_id] = (fleet, failed)

    def vanish(self, machine_id: str) -> None:
        """Have a machine end without anybody's asking."""
        del self._account.machines[machine_id]

    def give_notice(self, machine_id: str, *, ends_at: datetime) -> None:
        """Say that the machine will be taken away."""
        fleet, machine = self._account.machines[machine_id]
        self._account.machines[machine_id] = (fleet, replace(machine, ends_at=ends_at))

    def lose_tag(self, machine_id: str) -> None:
        """Have a machine of the fleet without a launch, as one is that was begun by hand."""
        fleet, machine = self._account.machines[machine_id]
        self._account.machines[machine_id] = (fleet, replace(machine, launch_id=None))

    def _begun(self, order: MachineOrder) -> Machine:
        if order.size not in {size.name for size in self.sizes}:
            raise MachineRefused(f"there is no size {order.size}", failure=LaunchFailure.BROKEN)
        if self.refusals:
            failure = self.refusals.popleft()
            raise MachineRefused(f"none now: {failure}", failure=failure)
        self._account.begun += 1
        machine = Machine(
            id=f"m-{self._account.begun:04}",
            launch_id=LaunchId(order.launch_id),
            size=order.size,
            state=MachineState.STARTING,
            launched_at=self._clock.now(),
        )
        self._account.machines[machine.id] = (self._fleet, machine)
        return machine

    def _reach(self, term: int | None) -> None:
        if self.is_unreachable:
            raise PoolUnreachable("the pool does not answer")
        if term is None:
            return
        newest = self._account.terms.get(self._fleet, 0)
        if term < newest:
            raise StaleTerm(f"term {term} is over: this pool has been asked in term {newest}")
        self._account.terms[self._fleet] = term

    def _answer(self) -> None:
        if self.answers_lost:
            self.answers_lost -= 1
            raise PoolUnreachable("the answer was lost")

    def _mine(self) -> Sequence[Machine]:
        return [one for fleet, one in self._account.machines.values() if fleet == self._fleet]

    def _of(self, launch_id: LaunchId) -> Machine | None:
        return next((one for one in self._mine() if one.launch_id == launch_id), None)

    def _is_gone(self, machine: Machine) -> bool:
        ended_at = self._account.ended_at.get(machine.id)
        return ended_at is not None and self._clock.now() - ended_at >= timedelta(seconds=self._end_s)

    def _seen(self, machine: Machine) -> Machine:
        if machine.id in self._account.ended_at:
            return replace(machine, state=MachineState.ENDING)
        size = next(one for one in self.sizes if one.name == machine.size)
        is_up = self._clock.now() - machine.launched_at >= timedelta(seconds=size.boot_s)
        is_up = is_up and machine.failure is None
        return replace(machine, state=MachineState.RUNNING if is_up else MachineState.STARTING)
