"""A wake that fails while the queue's last attempt gives it a place: the place is given back, with proof."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

from sandfleet.controlplane.dependencies import ControlPlane, CreateOrder
from sandfleet.controlplane.operations.fleet import Fleet
from sandfleet.model.ids import OperationId, SandboxId, WorkerId
from sandfleet.model.operation import OperationKind, OperationState
from sandfleet.model.sandbox import SandboxState
from sandfleet.planning.placement import NoPlacement
from sandfleet.testing.builders import ORGANISATION, a_worker, an_organisation, resources
from sandfleet.testing.fake_worker_client import FakeWorkerClient
from sandfleet.testing.memory.database import MemoryDatabase
from sandfleet.testing.simulation.loop import Process
from sandfleet.testing.simulation.world import World
from sandfleet.wire.worker_messages import StopVm, VmStopped

NAME, WAKE = SandboxId("sb-one"), OperationId("op-wake")


class NotesStops(FakeWorkerClient):
    """Remembers under which epochs it was asked to prove that nothing is left."""

    def __init__(self) -> None:
        super().__init__()
        self.stops: list[int] = []

    async def stop_vm(self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: StopVm) -> VmStopped:
        """Note it."""
        self.stops.append(order.epoch)
        return await super().stop_vm(worker_id, url, sandbox_id, order)


class LatePlacements:
    """Finds no place for the wake, and then one while its end is being written."""

    def __init__(self, plane: ControlPlane) -> None:
        self._place = plane.stores.placements.place
        self._finish = plane.stores.operations.finish
        self._is_ending, self._is_placed = asyncio.Event(), asyncio.Event()
        self.attempts = 0

    async def place(self, operation: Any, *given: Any, **named: Any) -> Any:
        """Decide, for the wake at the worst moment."""
        if operation.id != WAKE:
            return await self._place(operation, *given, **named)
        self.attempts += 1
        if self.attempts == 1:
            return NoPlacement({}, behind=0)
        await self._is_ending.wait()
        placed = await self._place(operation, *given, **named)
        self._is_placed.set()
        return placed

    async def finish(self, operation: Any, **named: Any) -> Any:
        """End it; the wake only when it has a place."""
        if operation.id == WAKE:
            self._is_ending.set()
            await self._is_placed.wait()
        return await self._finish(operation, **named)


class Instead:
    """A store of which some methods are others."""

    def __init__(self, store: Any, **methods: Any) -> None:
        self._store = store
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def wake(plane: ControlPlane) -> OperationState:
    """Create a sandbox, save it, wake it, and return how that ended."""
    await plane.stores.organisations.create(an_organisation())
    await plane.stores.workers.register(a_worker())
    late = LatePlacements(plane)
    stores = replace(
        plane.stores,
        placements=cast(Any, Instead(plane.stores.placements, place=late.place)),
        operations=cast(Any, Instead(plane.stores.operations, finish=late.finish)),
    )
    order = CreateOrder(
        sandbox_id=NAME,
        operation_id=OperationId("op-create"),
        organisation_id=ORGANISATION,
        resources=resources(1024),
        template="base",
        region="local",
        actor="test",
    )
    async with Fleet(replace(plane, stores=stores)).running(with_loops=False) as fleet:
        await fleet.create(order)
        await fleet.engine.wait_for(order.operation_id, timeout_s=10)
        row = await plane.stores.sandboxes.get_any(NAME)
        ids = {"operation_id": "op-save", "snapshot_id": "sn-one"}
        saving = await fleet.hibernate(row, ids=ids, actor="test")
        await fleet.engine.wait_for(saving.id, timeout_s=10)
        row = await plane.stores.sandboxes.get_any(NAME)
        await fleet.wake(row, ids={"operation_id": WAKE}, actor="test")
        ended = await fleet.engine.wait_for(WAKE, timeout_s=30)
        assert (ended.kind, late.attempts) == (OperationKind.WAKE, 2)
        return ended.state


def test_the_place_that_it_was_given_meanwhile_is_free_and_its_worker_has_proven_that() -> None:
    client = NotesStops()
    world = World(0)
    world.network.is_calm = True
    world.database = cast(Any, MemoryDatabase(now=world.database.now))  # unwatched: there are no hosts
    plane = replace(world._plane(Process("replica-1")), worker_client=client)
    assert world.loop.run_until_complete(wake(plane)) is OperationState.FAILED
    (row,) = world.database.sandboxes.values()
    assert (row.state, row.worker_id) == (SandboxState.HIBERNATED, None)
    assert world.database.reservations == {}
    assert client.stops == [row.epoch]
