"""A leader's loops over stores and a pool in memory, and machines on which workers come up by themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TypeVar, cast

from sandfleet.controlplane.dependencies import ControlPlane, Stores
from sandfleet.controlplane.loops.machines import MachineLoop
from sandfleet.controlplane.loops.orphans import OrphanLoop
from sandfleet.model.drain import DrainOwner
from sandfleet.model.errors import StoreUnavailable
from sandfleet.model.launch import Launch, LaunchId
from sandfleet.model.machine import Machine, MachineState
from sandfleet.planning.fleet import FleetCommand, LaunchMachine
from sandfleet.planning.orphans import OrphanPolicy
from sandfleet.ports.fleet_store import FleetDecision
from sandfleet.testing.builders import NOON, a_worker
from sandfleet.testing.clock import JumpingClock
from sandfleet.testing.fake_machine_pool import FakeAccount, FakeMachinePool
from sandfleet.testing.memory.database import MemoryDatabase
from sandfleet.testing.memory.wiring import memory_stores

T = TypeVar("T")
ORPHANS = OrphanPolicy(age_s_min=900, reported_s_min=600)


class BreakingLink:
    """Fails one of the calls, or one of so many, before or after it has done its work."""

    def __init__(self) -> None:
        self.calls = 0
        self.breaks_at: int | None = None
        self.every: int | None = None
        self.is_after = False

    async def call(self, work: Callable[[], T], *, repeatable: bool = False, name: str = "") -> T:
        self.calls += 1
        is_broken = self.calls == self.breaks_at or (self.every and self.calls % self.every == 0)
        if is_broken and not self.is_after:
            raise StoreUnavailable("not now")
        result = work()
        if is_broken:
            raise StoreUnavailable("the answer was lost")
        return result


@dataclass
class World:
    """A leader's loops over a store and a pool, and machines on which workers come up by themselves."""

    clock: JumpingClock = field(default_factory=lambda: JumpingClock(now=NOON))
    account: FakeAccount = field(default_factory=FakeAccount)
    link: BreakingLink = field(default_factory=BreakingLink)
    term: int = 1

    def __post_init__(self) -> None:
        self.database = MemoryDatabase(self.clock.now, term=self.term)
        self.stores: Stores = memory_stores(self.database)
        self.pool = FakeMachinePool(self.clock, self.account)
        self.elect()

    def elect(self) -> None:
        """Have the loops of a leader that has just come."""
        plane = SimpleNamespace(
            stores=memory_stores(self.database, self.link), pools={"fake": self.pool}, clock=self.clock
        )
        self.plane = cast(ControlPlane, plane)
        self.loop = MachineLoop(self.plane, self.pool)
        self.orphans = OrphanLoop(self.plane, self.pool, ORPHANS)

    async def decide(self, *commands: FleetCommand) -> None:
        left_out = await self.stores.fleet.record(
            FleetDecision(DrainOwner.CAPACITY, commands), term=self.database.term
        )
        assert left_out == []

    async def tick(self, *, seconds: float = 0.0) -> str:
        await self.clock.advance(seconds)
        return await self.loop.tick(term=self.database.term)

    async def boot(self) -> None:
        """Workers of machines that are up report."""
        for machine in await self.machines():
            if machine.state is MachineState.RUNNING:
                name = f"wk-{machine.id}"
                await self.stores.workers.register(a_worker(name, machine_id=machine.id))

    async def machines(self) -> list[Machine]:
        return list(await FakeMachinePool(self.clock, self.account).list())

    async def launch(self, number: int = 1) -> Launch:
        found = {one.id: one for one in await self.stores.fleet.launches()}
        return found[named(number)]


def named(number: int) -> LaunchId:
    return LaunchId(f"launch-{number:08}")


def launching(number: int, size: str = "fake/small") -> LaunchMachine:
    return LaunchMachine(named(number), size, "v1", "wanted")
