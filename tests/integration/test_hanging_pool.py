"""Two pools, and one of them hangs: the other's machines come, go and are drained as if it were not there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.integration import azure_fleet
from tests.integration.azure_fleet import Azure

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.http.metrics import Metrics
from sandfleet.controlplane.loops import machines as machine_loops
from sandfleet.controlplane.operations import fleet as fleets
from sandfleet.controlplane.watched_pools import WatchedPool
from sandfleet.model.drain import DrainOwner
from sandfleet.model.ids import WorkerId
from sandfleet.model.launch import Launch, LaunchFailure, LaunchId, LaunchState
from sandfleet.planning.fleet import AbandonLaunch, FleetCommand, LaunchMachine
from sandfleet.ports.fleet_store import FleetDecision
from sandfleet.ports.machine_pool import MachinePool
from sandfleet.testing.builders import a_worker
from sandfleet.testing.fake_machine_pool import FakeAccount, FakeMachinePool

pytestmark = pytest.mark.timeout(240)
HANGS, ENDS, STAYS = "launch-1", "launch-2", "launch-3"
WORKER = WorkerId("wk-stays")


@pytest.fixture
def azure() -> Iterator[Azure]:
    with ExitStack() as stack:
        azure = azure_fleet.begun_anew(*stack.enter_context(azure_fleet.serving()))
        stack.callback(azure.arm.goes_on.set)
        azure.arm.hangs = True
        yield azure


class Town:
    """A leader with a pool that hangs and one that does not."""

    def __init__(self, replicas: Any, azure: Azure, *, call_s: float) -> None:
        plane: ControlPlane = replicas.plane("leader")
        self.metrics = Metrics()
        self.other = FakeMachinePool(plane.clock, FakeAccount(), end_s=0)
        pools: tuple[MachinePool, ...] = (azure.pool(), self.other)
        watched = {one.name: WatchedPool(one, self.metrics, plane.clock, call_s=call_s) for one in pools}
        self.plane = replace(plane, pools=watched, observer=self.metrics)

    async def decide(self, *commands: FleetCommand) -> None:
        decision = FleetDecision(DrainOwner.CAPACITY, commands)
        assert await self.plane.stores.fleet.record(decision, term=1) == []

    async def launch(self, name: str) -> Launch:
        return next(one for one in await self.plane.stores.fleet.launches() if one.id == name)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(120):
        while not await holds():
            await asyncio.sleep(0.02)


async def is_led(town: Town) -> bool:
    return await town.plane.stores.terms.current_term() == 1


async def test_machines_of_the_other_come_go_and_are_drained_while_no_call_to_the_first_ever_ends(
    replicas: Any, azure: Azure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleets, "NOTICES_EVERY_S", 0.05)
    town = Town(replicas, azure, call_s=3600)
    async with replicas.replica("leader", with_loops=True, plane=town.plane):
        await until(lambda: is_led(town))
        await town.decide(LaunchMachine(LaunchId(HANGS), "azure/usual", "v1", ""))
        await town.decide(*(LaunchMachine(LaunchId(one), "fake/small", "v1", "") for one in (ENDS, STAYS)))

        async def are_begun() -> bool:
            return None not in [(await town.launch(one)).machine_id for one in (ENDS, STAYS)]

        await until(are_begun)
        stays = (await town.launch(STAYS)).machine_id or ""
        await town.plane.stores.workers.register(a_worker(WORKER, machine_id=stays))

        async def has_joined() -> bool:
            return (await town.launch(STAYS)).worker_id == WORKER

        await until(has_joined)
        await town.decide(AbandonLaunch(LaunchId(ENDS), "late"))

        async def has_ended() -> bool:
            return (await town.launch(ENDS)).gone_at is not None

        await until(has_ended)
        town.other.give_notice(stays, ends_at=town.plane.clock.now() + timedelta(minutes=2))

        async def is_drained() -> bool:
            drain = await town.plane.stores.drains.get(WORKER)
            return drain is not None and drain.owner is DrainOwner.NOTICE

        await until(is_drained)
        hanging = await town.launch(HANGS)
        assert (hanging.state, hanging.machine_id) == (LaunchState.PENDING, None)
        azure.arm.goes_on.set()


async def test_a_call_that_hangs_is_given_up_and_said_and_later_so_is_the_launch(
    replicas: Any, azure: Azure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_loops, "UNANSWERED", timedelta(seconds=1))
    town = Town(replicas, azure, call_s=0.2)
    async with replicas.replica("leader", with_loops=True, plane=town.plane) as fleet:
        await until(lambda: is_led(town))
        await town.decide(LaunchMachine(LaunchId(HANGS), "azure/usual", "v1", ""))

        async def is_given_up() -> bool:
            return (await town.launch(HANGS)).state is LaunchState.FAILED

        await until(is_given_up)
        failed = await town.launch(HANGS)
        assert failed.failure is LaunchFailure.UNREACHABLE
        assert failed.said == "no answer for 1 s: azure has not answered within 0 s"
        assert town.metrics.pools_asked["azure"][0] is False
        assert "azure has not answered" in fleet.loops.sentences["notices azure"]
        # What was asked is done when the pool goes on: by then it is nobody's, and is found by its tag.
        azure.arm.goes_on.set()
        again = azure.pool()

        async def is_there() -> bool:
            return [one.launch_id for one in await again.list()] == [HANGS]

        await until(is_there)

        async def answers() -> bool:
            return town.metrics.pools_asked["azure"][0]

        await until(answers)
        assert failed.is_ending
