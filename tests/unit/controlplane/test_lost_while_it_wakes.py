"""The only copy of a saved state is lost while its sandbox is being woken: it goes back to the one before."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

from sandfleet.controlplane.dependencies import ControlPlane, CreateOrder
from sandfleet.controlplane.operations.fleet import Fleet
from sandfleet.model.ids import OperationId, SandboxId, SnapshotId, WorkerId
from sandfleet.model.operation import OperationKind, OperationState
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.snapshot import SnapshotState
from sandfleet.model.worker import WorkerState
from sandfleet.testing.builders import ORGANISATION, a_worker, an_organisation, resources
from sandfleet.testing.fake_worker_client import FakeWorkerClient
from sandfleet.testing.memory.database import MemoryDatabase
from sandfleet.testing.simulation.loop import Process
from sandfleet.testing.simulation.world import World

NAME, HOME, AWAY = SandboxId("sb-one"), WorkerId("wk-one"), WorkerId("wk-two")


class Scene:
    """One sandbox that was saved twice: durably, and then only on its host."""

    def __init__(self, plane: ControlPlane, fleet: Fleet, workers: FakeWorkerClient) -> None:
        self.plane = plane
        self.fleet = fleet
        self.workers = workers

    async def row(self) -> Sandbox:
        """Return the sandbox."""
        return await self.plane.stores.sandboxes.get_any(NAME)

    async def ended(self, name: str) -> OperationState:
        """Return how an operation ended."""
        return (await self.fleet.engine.wait_for(OperationId(name), timeout_s=600)).state

    async def uploaded(self) -> None:
        """Return when nothing is brought to the object store any more."""
        for one in await self.plane.stores.operations.open_for(NAME):
            if one.kind is OperationKind.UPLOAD:
                await self.ended(one.id)

    async def save(self, name: str) -> None:
        """Hibernate it."""
        ids = {"operation_id": f"op-{name}", "snapshot_id": f"sn-{name}"}
        await self.fleet.hibernate(await self.row(), ids=ids, actor="test")
        assert await self.ended(f"op-{name}") is OperationState.SUCCEEDED

    async def wake(self, name: str) -> None:
        """Begin to wake it."""
        await self.fleet.wake(await self.row(), ids={"operation_id": name}, actor="test")

    async def lose_home(self) -> None:
        """Say that its host is no more; there is another."""
        term = await self.plane.stores.terms.raise_term("test")
        workers = self.plane.stores.workers
        await workers.mark_absent(WorkerState.SILENT, silent_for=timedelta(0), term=term)
        await workers.forget(HOME, is_lost=True, actor="operator")
        await workers.register(a_worker(AWAY))


async def lose_it(scene: Scene) -> None:
    """Save it twice, begin to wake it where the newer state is, and lose that host."""
    stores = scene.plane.stores
    await stores.organisations.create(an_organisation())
    await stores.workers.register(a_worker())
    order = CreateOrder(
        sandbox_id=NAME,
        operation_id=OperationId("op-create"),
        organisation_id=ORGANISATION,
        resources=resources(1024),
        template="base",
        region="local",
        actor="test",
    )
    await scene.fleet.create(order)
    assert await scene.ended("op-create") is OperationState.SUCCEEDED
    await scene.save("durable")
    await scene.uploaded()
    await scene.wake("op-again")
    assert await scene.ended("op-again") is OperationState.SUCCEEDED
    scene.workers.host(HOME).upload_failure = "the object store is away"
    await scene.save("local")
    scene.workers.host(HOME).is_unreachable = True
    await scene.wake("op-lost")
    await scene.lose_home()
    assert await scene.ended("op-lost") is OperationState.FAILED
    await scene.uploaded()


async def story(plane: ControlPlane, workers: FakeWorkerClient) -> Sandbox:
    """Lose it, and wake it once more."""
    async with Fleet(plane).running(with_loops=False) as fleet:
        scene = Scene(plane, fleet, workers)
        await lose_it(scene)
        asleep = await scene.row()
        assert (asleep.state, asleep.snapshot_id) == (SandboxState.HIBERNATED, "sn-durable")
        lost = await plane.stores.snapshots.get(SnapshotId("sn-local"))
        assert lost.state is SnapshotState.FAILED
        await scene.wake("op-awake")
        assert await scene.ended("op-awake") is OperationState.SUCCEEDED
        return await scene.row()


def test_it_sleeps_on_with_the_durable_state_and_wakes_elsewhere() -> None:
    workers = FakeWorkerClient()
    world = World(0)
    world.network.is_calm = True
    world.database = cast(Any, MemoryDatabase(now=world.database.now))  # unwatched: there are no hosts
    plane = world._plane(Process("replica-1"))
    settings = plane.settings.model_copy(update={"blob_store_url": "file:///nowhere"})
    plane = replace(plane, worker_client=workers, settings=settings, blobs=None)
    row = world.loop.run_until_complete(story(plane, workers))
    assert (row.state, row.worker_id) == (SandboxState.RUNNING, AWAY)
