"""A change of size whose first answer was lost, and which is refused when it is asked again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from sandfleet.controlplane.dependencies import ControlPlane, CreateOrder, NewSize
from sandfleet.controlplane.operations.fleet import Fleet
from sandfleet.model.errors import Conflict, WorkerUnreachable
from sandfleet.model.ids import OperationId, SandboxId, WorkerId
from sandfleet.model.operation import OperationState
from sandfleet.testing.builders import ORGANISATION, a_worker, an_organisation, resources
from sandfleet.testing.fake_worker_client import FakeWorkerClient
from sandfleet.testing.memory.database import MemoryDatabase
from sandfleet.testing.simulation.loop import Process
from sandfleet.testing.simulation.world import World
from sandfleet.wire.worker_messages import ResizedVm, ResizeVm


class ForgetsToAnswer(FakeWorkerClient):
    """Does the first change without saying so, and refuses the second."""

    attempts = 0

    async def resize_vm(
        self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: ResizeVm
    ) -> ResizedVm:
        """Do it, or not, and say that it was not."""
        self.attempts += 1
        if self.attempts > 1:
            raise Conflict("the guest uses more", code="oom_floor")
        await super().resize_vm(worker_id, url, sandbox_id, order)
        raise WorkerUnreachable("no answer")


async def resize(plane: ControlPlane) -> OperationState:
    """Create a sandbox of 1024 MiB, ask for 2048, and return how that ended."""
    await plane.stores.organisations.create(an_organisation())
    await plane.stores.workers.register(a_worker())
    order = CreateOrder(
        sandbox_id=SandboxId("sb-one"),
        operation_id=OperationId("op-create"),
        organisation_id=ORGANISATION,
        resources=resources(1024),
        template="base",
        region="local",
        actor="test",
    )
    async with Fleet(plane).running(with_loops=False) as fleet:
        await fleet.create(order)
        await fleet.engine.wait_for(order.operation_id, timeout_s=10)
        row = await plane.stores.sandboxes.get_any(order.sandbox_id)
        asked = await fleet.resize(row, NewSize(2048, None), operation_id="op-size", actor="test")
        return (await fleet.engine.wait_for(asked.id, timeout_s=10)).state


def test_what_the_guest_has_is_written_and_reserved_although_the_change_was_refused() -> None:
    client = ForgetsToAnswer()
    world = World(0)
    world.network.is_calm = True
    world.database = cast(Any, MemoryDatabase(now=world.database.now))  # unwatched: there are no hosts
    plane = replace(world._plane(Process("replica-1")), worker_client=client)
    assert world.loop.run_until_complete(resize(plane)) is OperationState.FAILED
    (row,) = world.database.sandboxes.values()
    (held,) = world.database.reservations.values()
    assert client.attempts == 2
    assert (row.resources.memory_mib, held.resources.memory_mib) == (2048, 2048)
