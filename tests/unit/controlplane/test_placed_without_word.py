"""A placement that was written although its caller heard otherwise: it is gone on with, not made twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from sandfleet.controlplane.dependencies import ControlPlane, CreateOrder
from sandfleet.controlplane.operations.fleet import Fleet
from sandfleet.model.errors import StaleVersion, StoreUnavailable
from sandfleet.model.ids import OperationId, SandboxId, WorkerId
from sandfleet.model.operation import OperationState
from sandfleet.model.sandbox import SandboxState
from sandfleet.testing.builders import ORGANISATION, a_worker, an_organisation, resources
from sandfleet.testing.fake_worker_client import FakeWorkerClient
from sandfleet.testing.memory.database import MemoryDatabase
from sandfleet.testing.simulation.loop import Process
from sandfleet.testing.simulation.world import World

CREATE = OperationId("op-create")


class PlacesWithoutWord:
    """Writes the first placement and says something else."""

    def __init__(self, store: Any, word: Exception) -> None:
        self._store = store
        self._word = word
        self.attempts = 0

    async def place(self, *given: Any, **named: Any) -> Any:
        """Place it; only from the second time on the caller hears where."""
        self.attempts += 1
        placed = await self._store.place(*given, **named)
        if self.attempts == 1:
            raise self._word
        return placed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def create(plane: ControlPlane) -> OperationState:
    await plane.stores.organisations.create(an_organisation())
    await plane.stores.workers.register(a_worker())
    order = CreateOrder(
        sandbox_id=SandboxId("sb-one"),
        operation_id=CREATE,
        organisation_id=ORGANISATION,
        resources=resources(1024),
        template="base",
        region="local",
        actor="test",
    )
    async with Fleet(plane).running(with_loops=False) as fleet:
        await fleet.create(order)
        return (await fleet.engine.wait_for(CREATE, timeout_s=30)).state


@pytest.mark.parametrize(
    "word",
    [
        StoreUnavailable("the connection broke while it was written"),
        # The store asked once more after that, and met its own write.
        StaleVersion("the row has another version"),
    ],
)
def test_a_placement_of_unknown_outcome_is_read_and_not_repeated(word: Exception) -> None:
    client = FakeWorkerClient()
    world = World(0)
    world.network.is_calm = True
    world.database = cast(Any, MemoryDatabase(now=world.database.now))  # unwatched: there are no hosts
    plane = replace(world._plane(Process("replica-1")), worker_client=client)
    placements = PlacesWithoutWord(plane.stores.placements, word)
    plane = replace(plane, stores=replace(plane.stores, placements=cast(Any, placements)))
    assert world.loop.run_until_complete(create(plane)) is OperationState.SUCCEEDED
    assert placements.attempts == 1
    (row,) = world.database.sandboxes.values()
    assert (row.state, row.worker_id, row.epoch) == (SandboxState.RUNNING, "wk-one", 1)
    assert len(client.host(WorkerId("wk-one")).orders) == 1
