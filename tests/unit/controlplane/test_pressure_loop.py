"""A leader relieves a host that is short: by a move, else by a sleep that is safe, until it is relieved."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, cast

import msgspec
import pytest

from sandfleet.controlplane.dependencies import ControlPlane, CreateOrder
from sandfleet.controlplane.loops.pressure import PressureLoop
from sandfleet.controlplane.operations.fleet import Fleet
from sandfleet.model.errors import StaleTerm
from sandfleet.model.ids import OperationId, SandboxId, WorkerId
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.worker import Worker
from sandfleet.planning.placement import FleetView, NoPlacement, PlacementRequest, place
from sandfleet.testing.builders import ORGANISATION, a_worker, an_organisation, resources
from sandfleet.testing.fake_move_client import FakeMoveClient
from sandfleet.testing.fake_worker_client import FakeWorkerClient
from sandfleet.testing.memory.database import MemoryDatabase
from sandfleet.testing.simulation.loop import Process
from sandfleet.testing.simulation.world import World

NAME = SandboxId("sb-one")
HOME, AWAY = WorkerId("wk-one"), WorkerId("wk-two")
Story = Callable[[Fleet, PressureLoop], Awaitable[Any]]


def a_host(name: str, used_mib: int, *, sequence: int) -> Worker:
    return a_worker(
        name,
        sequence=sequence,
        memory_used_mib=used_mib,
        host_memory_mib=20000,
        host_cpus=8,
        host_disk_mib=100_000,
        disk_used_mib=10_000,
    )


class Fixture:
    """One sandbox on one of two hosts, and what both say of themselves."""

    def __init__(self, *, has_store: bool = True) -> None:
        self.world = World(0)
        self.world.network.is_calm = True
        self.world.database = cast(Any, MemoryDatabase(now=self.world.database.now))  # there are no hosts
        self.mover = FakeMoveClient(FakeWorkerClient())
        plane = self.world._plane(Process("replica-1"))
        settings = plane.settings.model_copy(
            update={"blob_store_url": "file:///nowhere" if has_store else None}
        )
        self.plane: ControlPlane = replace(
            plane, worker_client=self.mover.workers, move_client=self.mover, settings=settings
        )
        self._sequence = 1

    async def say(self, **used_mib: int) -> None:
        """Have hosts report what they use."""
        self._sequence += 1
        for name, amount in used_mib.items():
            await self.plane.stores.workers.register(a_host(f"wk-{name}", amount, sequence=self._sequence))

    async def begin(self, fleet: Fleet) -> None:
        await self.plane.stores.organisations.create(an_organisation())
        await self.say(one=1000)
        order = CreateOrder(
            sandbox_id=NAME,
            operation_id=OperationId("op-create"),
            organisation_id=ORGANISATION,
            resources=resources(4096),
            template="base",
            region="local",
            actor="test",
        )
        await fleet.create(order)
        await fleet.engine.wait_for(order.operation_id, timeout_s=10)
        vms = self.mover.workers.host(HOME).vms
        vms[NAME] = msgspec.structs.replace(vms[NAME], memory_used_mib=3500, idle_s=1000.0)

    async def row(self) -> Sandbox:
        return await self.plane.stores.sandboxes.get_any(NAME)

    async def ended(self, fleet: Fleet) -> Sandbox:
        for operation in await self.plane.stores.operations.open_for(NAME):
            await fleet.engine.wait_for(operation.id, timeout_s=600)
        return await self.row()

    def run(self, story: Story) -> None:
        async def told() -> None:
            async with Fleet(self.plane).running(with_loops=False) as fleet:
                await self.begin(fleet)
                await story(fleet, PressureLoop(self.plane, fleet.engine.start))

        self.world.loop.run_until_complete(told())


def test_it_moves_to_who_has_room_and_is_left_alone_there() -> None:
    fixture = Fixture()

    async def story(fleet: Fleet, loop: PressureLoop) -> None:
        assert await loop.tick(term=0) == "no host is short of anything"
        await fixture.say(one=19800, two=1000)
        assert (await loop.tick(term=0)).startswith("1 move, 0 are put to sleep; wk-one: 99% of its memory")
        row = await fixture.ended(fleet)
        assert (row.state, row.worker_id) == ("running", AWAY)
        log = await fixture.plane.stores.sandboxes.transitions(ORGANISATION, NAME)
        (why,) = [one.reason for one in log if one.actor == "pressure"]
        assert why.startswith("wk-one to wk-two: wk-one is short of memory (99% used): best fit")
        await fixture.say(one=16300, two=4500)
        assert await loop.tick(term=0) == "no host is short of anything"

    fixture.run(story)
    assert fixture.mover.violations == []


def test_what_nobody_can_take_sleeps_where_that_is_safe() -> None:
    fixture = Fixture()

    async def story(fleet: Fleet, loop: PressureLoop) -> None:
        await fixture.say(one=19800, two=16900)
        assert (await loop.tick(term=0)).startswith("0 move, 1 are put to sleep; wk-one: 99%")
        row = await fixture.ended(fleet)
        assert (row.state, row.worker_id) == ("hibernated", None)

    fixture.run(story)


@pytest.mark.parametrize("is_silent", [False, True])
def test_without_an_object_store_or_the_workers_word_it_runs_on(is_silent: bool) -> None:
    fixture = Fixture(has_store=is_silent)

    async def story(fleet: Fleet, loop: PressureLoop) -> None:
        await fixture.say(one=19800)
        fixture.mover.workers.host(HOME).is_unreachable = is_silent
        why = "it does not answer" if is_silent else "99% of its memory is used, and no more"
        assert (await loop.tick(term=0)).startswith(f"0 move, 0 are put to sleep; wk-one: {why}")
        assert (await fixture.row()).state == "running"

    fixture.run(story)


def test_a_leader_that_is_none_any_more_begins_nothing() -> None:
    fixture = Fixture()

    async def story(fleet: Fleet, loop: PressureLoop) -> None:
        await fixture.say(one=19800, two=1000)
        await fixture.plane.stores.terms.raise_term("another")
        with pytest.raises(StaleTerm):
            await loop.tick(term=0)
        assert (await fixture.row()).state == "running"

    fixture.run(story)


def test_who_is_short_gets_nothing_new() -> None:
    fixture = Fixture()

    async def story(fleet: Fleet, loop: PressureLoop) -> None:
        await fixture.say(one=18500)
        row = await fixture.row()
        (worker,) = await fixture.plane.stores.workers.list()
        request = PlacementRequest(row.resources, row.template, row.region)
        answer = place(request, FleetView([worker]), fixture.plane.settings.placement_policy)
        assert isinstance(answer, NoPlacement)
        assert answer.refusals == {HOME: "uses 92% of its host's memory"}

    fixture.run(story)
