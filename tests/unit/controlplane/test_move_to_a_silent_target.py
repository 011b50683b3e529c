"""A target that falls silent while a guest is sent to it: the guest runs on at its source, if that lives."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import msgspec
import pytest

from sandfleet.controlplane.dependencies import ControlPlane, CreateOrder
from sandfleet.controlplane.operations.fleet import Fleet
from sandfleet.model.errors import HypervisorFailed, WorkerUnreachable
from sandfleet.model.ids import OperationId, SandboxId, WorkerId
from sandfleet.model.operation import Operation
from sandfleet.ports.move_client import WorkerAddress
from sandfleet.testing.builders import ORGANISATION, a_worker, an_organisation, resources
from sandfleet.testing.fake_move_client import FakeMoveClient
from sandfleet.testing.fake_worker_client import FakeWorkerClient
from sandfleet.testing.memory.database import MemoryDatabase
from sandfleet.testing.simulation.loop import Process
from sandfleet.testing.simulation.world import World
from sandfleet.wire.move_manifest import Landing
from sandfleet.wire.move_messages import MoveState, ReceiveMove, SendMove

NAME, MOVE = SandboxId("sb-one"), OperationId("op-move")
HOME, AWAY = WorkerId("wk-one"), WorkerId("wk-two")


class FallsSilent(FakeMoveClient):
    """The source has handed it over, nobody hears that, and the target is heard no more."""

    swallows: bool = False
    is_silent: bool = False

    async def send_move(self, source: WorkerAddress, sandbox_id: SandboxId, order: SendMove) -> MoveState:
        """Do it without saying so."""
        await super().send_move(source, sandbox_id, order)
        self.is_silent = True
        raise WorkerUnreachable("no answer")

    async def receive_move(self, target: WorkerAddress, move_id: str, order: ReceiveMove) -> Landing:
        """Refuse the connection, or take it and never answer."""
        if self.is_silent and self.swallows:
            await asyncio.Event().wait()
        self.workers.host(AWAY).is_unreachable = self.is_silent
        return await super().receive_move(target, move_id, order)


class OnlyCopy(FakeMoveClient):
    """The source's QEMU ends when all is handed over, and the target is silent for minutes."""

    says_ready: bool = False
    silences: int = 60

    async def send_move(self, source: WorkerAddress, sandbox_id: SandboxId, order: SendMove) -> MoveState:
        """Hand it over, and end."""
        state = await super().send_move(source, sandbox_id, order)
        vms = self.workers.host(HOME).vms
        vms[sandbox_id] = msgspec.structs.replace(vms[sandbox_id], state="dead")
        if self.says_ready:
            return state
        raise HypervisorFailed("QEMU has ended")

    async def landed(self, target: WorkerAddress, move_id: str) -> MoveState:
        """Answer at last."""
        self.silences -= 1
        if self.silences >= 0:
            raise WorkerUnreachable("no answer")
        return await super().landed(target, move_id)


async def move(plane: ControlPlane) -> Operation:
    """Create a sandbox at one worker, move it to another, and return how that ended."""
    await plane.stores.organisations.create(an_organisation())
    await plane.stores.workers.register(a_worker())
    order = CreateOrder(
        sandbox_id=NAME,
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
        await plane.stores.workers.register(a_worker(AWAY))
        row = await plane.stores.sandboxes.get_any(NAME)
        await fleet.migrate(row, target=AWAY, operation_id=MOVE, actor="test")
        return await fleet.engine.wait_for(MOVE, timeout_s=1800)


def a_fleet(mover: FakeMoveClient) -> tuple[World, ControlPlane]:
    """Return a world whose workers are those of the mover."""
    world = World(0)
    world.network.is_calm = True
    world.database = cast(Any, MemoryDatabase(now=world.database.now))  # unwatched: there are no hosts
    plane = world._plane(Process("replica-1"))
    return world, replace(plane, worker_client=mover.workers, move_client=mover)


@pytest.mark.parametrize("swallows", [False, True])
def test_the_guest_that_stands_still_runs_on_at_its_source(swallows: bool) -> None:
    mover = FallsSilent(FakeWorkerClient())
    mover.swallows = swallows
    world, plane = a_fleet(mover)
    ended = world.loop.run_until_complete(move(plane))
    assert (ended.state, ended.error_code) == ("failed", "worker_unreachable")
    (row,) = world.database.sandboxes.values()
    assert (row.state, row.worker_id, row.epoch) == ("running", HOME, 1)
    assert mover.workers.host(HOME).vms[NAME].state == "running"
    assert mover.violations == []


@pytest.mark.parametrize("says_ready", [False, True])
def test_a_target_that_may_have_the_only_copy_is_waited_for(says_ready: bool) -> None:
    mover = OnlyCopy(FakeWorkerClient())
    mover.says_ready = says_ready
    world, plane = a_fleet(mover)
    ended = world.loop.run_until_complete(move(plane))
    assert (ended.state, ended.error_message) == ("succeeded", None)
    (row,) = world.database.sandboxes.values()
    assert (row.state, row.worker_id, row.epoch) == ("running", AWAY, 2)
    assert mover.workers.host(AWAY).vms[NAME].state == "running"
    assert mover.violations == []
