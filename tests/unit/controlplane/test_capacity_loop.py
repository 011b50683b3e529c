"""Load rises and machines come, it falls and they go: planned, written down, carried out on a fake pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import cast

from tests.unit.controlplane.machine_world import World

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.loops.capacity import CapacityLoop
from sandfleet.model.drain import DrainOwner
from sandfleet.model.errors import StaleTerm, StoreUnavailable
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.launch import LaunchFailure, LaunchState
from sandfleet.model.machine import MachineState
from sandfleet.model.sandbox import SandboxState
from sandfleet.model.worker import WorkerState
from sandfleet.planning.capacity_policy import CapacityPolicy
from sandfleet.planning.placement import FleetView, Placement, PlacementPolicy, PlacementRequest
from sandfleet.planning.placement import place as place_by_rule
from sandfleet.testing.builders import a_worker, an_organisation
from sandfleet.testing.conformance.checking import refusing
from sandfleet.testing.conformance.placement_store import asked_for, place
from sandfleet.testing.fake_machine_pool import SMALL
from sandfleet.testing.fake_worker_client import FakeWorkerClient
from sandfleet.testing.memory.wiring import memory_stores
from sandfleet.wire.worker_messages import VmStatus

ROUND_S = 15.0
POLICY = CapacityPolicy(sizes=(replace(SMALL, accelerator="tcg"),), workers_max=6)


@dataclass
class Town(World):
    """A world with a capacity planner, creates that wait, and drains that move."""

    policy: CapacityPolicy = POLICY
    client: FakeWorkerClient = field(default_factory=FakeWorkerClient)
    born: int = 0
    said: list[str] = field(default_factory=list)

    def elect(self) -> None:
        super().elect()
        settings = SimpleNamespace(memory_default_mb=1024, disk_default_mb=20480, region="local")
        plane = SimpleNamespace(
            stores=memory_stores(self.database, self.link),
            clock=self.clock,
            settings=settings,
            capacity=self.policy,
            worker_client=self.client,
            pools={"fake": self.pool},
        )
        self.capacity = CapacityLoop(cast(ControlPlane, plane))

    async def ask(self, count: int) -> None:
        """Somebody asks for sandboxes; they wait."""
        if not self.database.organisations:
            await self.stores.organisations.create(an_organisation())
        for _ in range(count):
            self.born += 1
            await asked_for(self.stores, f"sb-{self.born:04}", step="queue", later_s=self.born)

    def end(self, count: int) -> None:
        """So many sandboxes are killed."""
        for sandbox_id in sorted(self.database.reservations)[:count]:
            del self.database.reservations[sandbox_id]
            row = self.database.sandboxes[sandbox_id]
            self.database.sandboxes[sandbox_id] = replace(row, state=SandboxState.STOPPED, worker_id=None)

    async def live(self, rounds: int) -> None:
        """Let time pass: everybody does what is his."""
        for _ in range(rounds):
            await self.clock.advance(ROUND_S)
            await self._report()
            await self._serve()
            self._move()
            try:
                self.said.append(await self.capacity.tick(term=self.database.term))
                await self.loop.tick(term=self.database.term)
            except* StoreUnavailable:
                self.elect()
                await self.stores.terms.raise_term("next")
            await self._check()

    async def _report(self) -> None:
        for machine in await self.machines():
            if machine.state is MachineState.RUNNING:
                worker = a_worker(f"wk-{machine.id}", machine_id=machine.id, total=SMALL.resources)
                await self.stores.workers.register(worker)

    async def _serve(self) -> None:
        for stored in list(self.database.running.values()):
            row = self.database.sandboxes[stored.operation.sandbox_id]
            if row.worker_id is None and stored.operation.step == "queue":
                await place(self.stores, stored.operation, row)

    def _move(self) -> None:
        """Move one sandbox of each drain to where placement would have it."""
        database = self.database
        for worker_id in database.drains:
            here = [one for one, held in database.reservations.items() if held.worker_id == worker_id]
            view = FleetView([database.read_worker(one) for one in database.workers.values()])
            for sandbox_id in sorted(here)[:1]:
                row = database.sandboxes[sandbox_id]
                request = PlacementRequest(row.resources, row.template, row.region)
                choice = place_by_rule(request, view, PlacementPolicy())
                if isinstance(choice, Placement):
                    held = database.reservations[sandbox_id]
                    database.reservations[sandbox_id] = replace(held, worker_id=choice.worker_id)
                    database.sandboxes[sandbox_id] = replace(row, worker_id=choice.worker_id)

    async def _check(self) -> None:
        """No machine ends under a sandbox, none is begun twice, and there are never too many."""
        machines = await self.machines()
        held = {one.worker_id for one in self.database.reservations.values()}
        standing = {one.id for one in machines if one.state is not MachineState.ENDING}
        assert {name.removeprefix("wk-") for name in held} <= standing
        assert len({one.launch_id for one in machines}) == len(machines)
        assert len(standing) <= self.policy.workers_max

    @property
    def workers(self) -> Sequence[WorkerId]:
        """Those that are there."""
        return [one.id for one in self.database.workers.values() if one.state is not WorkerState.GONE]


async def rise_and_fall(town: Town) -> None:
    """Twenty sandboxes come, sixteen of them go, and most of an hour passes."""
    await town.ask(20)
    await town.live(20)
    assert len(town.database.reservations) == 20
    assert len(town.workers) == 4  # twenty GiB on three of eight, and one in reserve
    town.end(16)
    await town.live(160)


async def test_machines_come_with_the_load_and_go_with_it() -> None:
    town = Town()
    await rise_and_fall(town)
    assert len(town.workers) == 2
    assert len(await town.machines()) == 2
    assert len(town.database.reservations) == 4
    launches = await town.stores.fleet.launches()
    assert len(launches) == 4
    assert sum(one.gone_at is not None for one in launches) == 2
    assert town.said[-1].startswith("hold: 2 workers, 2 wanted (1 occupied")


async def test_a_load_that_stays_changes_nothing_more() -> None:
    town = Town()
    await town.ask(20)
    await town.live(20)
    before = await town.stores.fleet.launches()
    await town.live(100)
    assert await town.stores.fleet.launches() == before
    assert town.database.drains == {}


async def test_the_fleet_is_the_same_in_the_end_if_now_and_then_a_call_fails() -> None:
    """Before or after the work is done; each time another leader goes on."""
    for every in (23, 37, 53):
        for is_after in (False, True):
            town = Town()
            town.link.every, town.link.is_after = every, is_after
            await rise_and_fall(town)
            assert len(town.workers) == 2, (every, is_after)
            await town.live(10)
            assert len(await town.machines()) == 2, (every, is_after)


async def test_nothing_is_removed_while_its_worker_does_not_say_that_it_is_empty() -> None:
    """Neither when it says otherwise than the rows, nor when it says nothing."""
    town = Town()
    await town.ask(20)
    await town.live(20)
    for worker_id in town.workers:
        town.client.host(worker_id).vms[SandboxId("sb-x")] = VmStatus(
            sandbox_id="sb-x", epoch=1, state="running"
        )
    town.end(20)
    await town.live(160)
    assert town.database.drains
    assert len(town.workers) == 4
    for worker_id in town.workers:
        town.client.host(worker_id).vms.clear()
    await town.live(160)
    assert len(town.workers) == 1


async def test_a_drain_that_an_operator_began_is_never_ended_by_the_loop() -> None:
    town = Town()
    await town.ask(4)
    await town.live(20)
    drained = town.workers[0]
    await town.stores.drains.begin(drained, actor="somebody")
    await town.live(160)
    drain = await town.stores.drains.get(drained)
    assert drain is not None
    assert drain.owner is DrainOwner.OPERATOR
    assert drained in town.workers


async def test_a_size_that_is_refused_is_left_alone_for_longer_each_time() -> None:
    town = Town()
    town.pool.refusals.extend([LaunchFailure.STOCKOUT] * 40)
    await town.ask(1)
    await town.live(40)
    asked = 40 - len(town.pool.refusals)
    assert 1 <= asked < 20
    assert "no size of machine may be had now" in town.said[-1]
    town.pool.refusals.clear()
    await town.live(200)
    assert len(town.workers) == 2
    failed = [one for one in await town.stores.fleet.launches() if one.state is LaunchState.FAILED]
    assert {one.failure for one in failed} == {LaunchFailure.STOCKOUT}


async def test_an_old_leader_plans_and_writes_nothing() -> None:
    town = Town()
    await town.ask(1)
    await town.stores.terms.raise_term("another")
    with refusing(StaleTerm):
        await town.capacity.tick(term=1)
    assert await town.stores.fleet.launches() == []


async def test_without_a_policy_the_fleet_is_as_it_is() -> None:
    town = Town()
    object.__setattr__(town.capacity.plane, "capacity", None)
    assert await town.capacity.tick(term=1) == "the fleet has the workers that it is given"
