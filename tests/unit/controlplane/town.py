"""A fleet in memory with a capacity planner: creates that wait, drains that move, machines that come up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import cast

from tests.unit.controlplane.machine_world import World

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.loops.capacity import CapacityLoop
from sandfleet.model.errors import StoreUnavailable
from sandfleet.model.ids import WorkerId
from sandfleet.model.machine import MachineState
from sandfleet.model.sandbox import SandboxState
from sandfleet.model.worker import WorkerState
from sandfleet.planning.capacity_policy import CapacityPolicy
from sandfleet.planning.placement import FleetView, Placement, PlacementPolicy, PlacementRequest
from sandfleet.planning.placement import place as place_by_rule
from sandfleet.testing.builders import a_worker, an_organisation
from sandfleet.testing.conformance.placement_store import asked_for, place
from sandfleet.testing.fake_machine_pool import SMALL
from sandfleet.testing.fake_worker_client import FakeWorkerClient
from sandfleet.testing.memory.wiring import memory_stores

ROUND_S = 15.0
POLICY = CapacityPolicy(sizes=(replace(SMALL, accelerator="tcg"),), workers_max=6)


@dataclass
class Town(World):
    """A world with a capacity planner, creates that wait, and drains that move."""

    policy: CapacityPolicy = POLICY
    client: FakeWorkerClient = field(default_factory=FakeWorkerClient)
    surge_max: int = 0
    """So many more there may be while a version is rolled out."""
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
        assert len(standing) <= self.policy.workers_max + self.surge_max

    @property
    def workers(self) -> Sequence[WorkerId]:
        """Those that are there."""
        return [one.id for one in self.database.workers.values() if one.state is not WorkerState.GONE]
