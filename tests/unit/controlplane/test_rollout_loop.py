"""A new version comes to every worker, or not at all: planned, written down, carried out on a fake pool."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
from tests.unit.controlplane.town import Town

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.loops.rollout import RolloutLoop
from sandfleet.controlplane.loops.trials import TrialLoop
from sandfleet.model.drain import DrainOwner
from sandfleet.model.errors import StaleTerm, StoreUnavailable
from sandfleet.model.ids import FLEET_ORGANISATION, WorkerId
from sandfleet.model.machine import MachineState
from sandfleet.model.operation import Operation
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.worker import WorkerState
from sandfleet.planning.capacity_policy import CapacityPolicy
from sandfleet.planning.placement import FleetView, Placement, PlacementPolicy, PlacementRequest
from sandfleet.planning.placement import place as place_by_rule
from sandfleet.planning.rollout import RolloutPolicy
from sandfleet.planning.rollout_state import RolloutStage
from sandfleet.ports.data_plane import DataPlaneRequest
from sandfleet.ports.rollout_store import StoredRollout
from sandfleet.testing.builders import a_worker
from sandfleet.testing.conformance.checking import refusing
from sandfleet.testing.fake_machine_pool import SMALL
from sandfleet.testing.memory.wiring import memory_stores

LAME, UNBOOTABLE = "lame", "unbootable"
POLICY = CapacityPolicy(sizes=(replace(SMALL, accelerator="tcg"),), workers_max=6, launch_s_max=120.0)
ROLLOUT = RolloutPolicy(canary_s=60.0, canary_s_max=1200.0)


class Ears:
    """Workers as they do what they are told; those of a lame version do not."""

    def __init__(self, town: Village) -> None:
        self._town = town

    @asynccontextmanager
    async def send(
        self, worker_id: WorkerId, url: str, request: DataPlaneRequest
    ) -> AsyncIterator[SimpleNamespace]:
        body = msgspec.json.decode(cast(bytes, request.body))
        is_lame = self._town.database.workers[worker_id].worker_version == LAME
        said = {"exitCode": 1 if is_lame else 0, "stdout": f"{body['args'][0]}\n", "stderr": ""}

        async def read(*, bytes_max: int) -> bytes:
            return msgspec.json.encode(said)

        yield SimpleNamespace(status=200, read=read)


@dataclass
class Village(Town):
    """A town where versions are rolled out, and trials run."""

    policy: CapacityPolicy = field(default_factory=lambda: POLICY)
    surge_max: int = 1
    stages: list[RolloutStage] = field(default_factory=list)
    is_changing_leaders: bool = False
    lived: int = 0
    dead: set[str] = field(default_factory=set)
    """Machines whose worker has died; they run on."""

    def elect(self) -> None:
        super().elect()
        settings = SimpleNamespace(
            memory_default_mb=1024,
            memory_base_mb=512,
            disk_default_mb=20480,
            disk_min_mb=20480,
            region="local",
            placement_policy=PlacementPolicy(),
            create_deadline_s=300,
            operation_lease_s=5,
        )
        plane = SimpleNamespace(
            stores=memory_stores(self.database, self.link),
            clock=self.clock,
            settings=settings,
            capacity=self.policy,
            rollout=ROLLOUT,
            worker_client=self.client,
            data_plane=Ears(self),
            replica_id="replica-1",
        )
        self.rollout = RolloutLoop(cast(ControlPlane, plane))
        self.trials = TrialLoop(cast(ControlPlane, plane), self._start, self._kill)

    def _start(self, operation: Operation, sandbox: Sandbox) -> None:
        """It runs at once."""
        self.database.sandboxes[sandbox.id] = replace(sandbox, state=SandboxState.RUNNING)

    async def _kill(self, sandbox: Sandbox) -> None:
        row = self.database.sandboxes[sandbox.id]
        self.database.reservations.pop(sandbox.id, None)
        self.database.sandboxes[sandbox.id] = replace(row, state=SandboxState.STOPPED, worker_id=None)

    async def live(self, rounds: int) -> None:
        for _ in range(rounds):
            try:
                await self.rollout.tick(term=self.database.term)
                await self.trials.tick(term=self.database.term)
            except* StoreUnavailable:
                self.elect()
            await super().live(1)
            self.lived += 1
            if self.is_changing_leaders and self.lived % 4 == 0:
                self.elect()
                await self.stores.terms.raise_term("next")
            self._check_rollout()

    async def begin(self, version: str, previous: str = "1") -> None:
        await self.stores.rollouts.begin(version, previous, actor="key k", at=self.clock.now())

    @property
    def now_rolled(self) -> StoredRollout:
        return self.database.rollouts[-1]

    def versions(self) -> Mapping[str, int]:
        there = [one for one in self.database.workers.values() if one.state is not WorkerState.GONE]
        return Counter(one.worker_version for one in there)

    def _check_rollout(self) -> None:
        """No tenant's sandbox is on a worker of a version that has not passed."""
        if not self.database.rollouts:
            return
        now = self.now_rolled.rollout
        if not self.stages or self.stages[-1] is not now.stage:
            self.stages.append(now.stage)
        if now.stage is RolloutStage.BOOT_TEST:
            for sandbox_id, held in self.database.reservations.items():
                if self.database.workers[held.worker_id].worker_version == now.version:
                    assert self.database.sandboxes[sandbox_id].organisation_id == FLEET_ORGANISATION

    async def _report(self) -> None:
        launches = {one.id: one for one in self.database.launches.values()}
        for machine in await self.machines():
            is_up = machine.state is MachineState.RUNNING and machine.id not in self.dead
            if not is_up or machine.launch_id is None:
                continue
            version = launches[machine.launch_id].version or "1"
            if version != UNBOOTABLE:
                worker = a_worker(
                    f"wk-{machine.id}",
                    machine_id=machine.id,
                    total=SMALL.resources,
                    worker_version=version,
                    sequence=int(self.clock.monotonic()),
                )
                await self.stores.workers.register(worker)

    def _move(self) -> None:
        """Move one sandbox of each drain, a roll-out's to the version that is wanted."""
        database = self.database
        for worker_id, drain in database.drains.items():
            is_ours = drain.owner is DrainOwner.ROLLOUT
            version = self.now_rolled.rollout.target if is_ours else None
            here = [one for one, held in database.reservations.items() if held.worker_id == worker_id]
            view = FleetView([database.read_worker(one) for one in database.workers.values()])
            for sandbox_id in sorted(here)[:1]:
                row = database.sandboxes[sandbox_id]
                request = PlacementRequest(row.resources, row.template, row.region, worker_version=version)
                choice = place_by_rule(request, view, PlacementPolicy())
                if isinstance(choice, Placement):
                    held = database.reservations[sandbox_id]
                    database.reservations[sandbox_id] = replace(held, worker_id=choice.worker_id)
                    database.sandboxes[sandbox_id] = replace(row, worker_id=choice.worker_id)


async def settled(**how: bool) -> Village:
    """A village with twenty sandboxes on workers of version 1."""
    village = Village(**how)
    await village.ask(20)
    await village.live(20)
    assert village.versions() == {"1": 4}
    return village


def tenants(village: Village) -> int:
    return sum(one.organisation_id != FLEET_ORGANISATION for one in village.database.reservations.values())


@pytest.mark.parametrize("is_changing_leaders", [False, True])
async def test_a_good_version_is_tested_tried_and_comes_to_every_worker(is_changing_leaders: bool) -> None:
    """The same when another leader goes on each minute."""
    village = await settled(is_changing_leaders=is_changing_leaders)
    await village.begin("2")
    await village.live(200)
    forward = [RolloutStage.BOOT_TEST, RolloutStage.CANARY, RolloutStage.FLEET, RolloutStage.DONE]
    assert village.stages == forward
    assert village.versions() == {"2": 4}
    assert tenants(village) == 20
    assert [step.stage for step in village.now_rolled.steps] == forward
    version = await village.stores.rollouts.version("2")
    assert version is not None
    assert version.tested_at is not None
    assert len(await village.machines()) == 4
    assert all(one.proven_at for one in (await village.stores.rollouts.proofs()).values())


async def test_what_comes_afterwards_is_of_the_new_version() -> None:
    village = await settled()
    await village.begin("2")
    await village.live(200)
    await village.ask(10)
    await village.live(30)
    assert tenants(village) == 30
    assert set(village.versions()) == {"2"}


async def test_a_version_that_does_not_boot_is_turned_back_after_its_second_machine() -> None:
    village = await settled()
    await village.begin(UNBOOTABLE)
    await village.live(120)
    assert RolloutStage.CANARY not in village.stages
    assert village.stages[-1] is RolloutStage.TURNED_BACK
    assert village.now_rolled.rollout.reason == "2 machines of version unbootable did not join"
    assert village.versions() == {"1": 4}
    assert tenants(village) == 20
    assert len(await village.machines()) == 4


async def test_a_version_that_runs_nothing_never_gets_anybodys_sandbox() -> None:
    village = await settled()
    await village.begin(LAME)
    await village.live(120)
    assert RolloutStage.CANARY not in village.stages
    assert village.stages[-1] is RolloutStage.TURNED_BACK
    assert "failed 5 of 5 times" in village.now_rolled.rollout.reason
    assert village.versions() == {"1": 4}
    assert tenants(village) == 20
    refused = await village.stores.rollouts.version(LAME)
    assert refused is not None
    assert refused.refused_at is not None


async def test_a_version_that_dies_at_the_canary_goes_with_its_machine() -> None:
    """It says nothing any more, so not that it is empty either."""
    village = await settled()
    await village.begin("2")
    while village.now_rolled.rollout.stage is not RolloutStage.CANARY:
        await village.live(1)
    (canary,) = [one for one in village.database.workers.values() if one.worker_version == "2"]
    village.dead.add(canary.machine_id)
    village.database.workers[canary.id] = replace(canary, state=WorkerState.UNREACHABLE)
    await village.live(20)
    assert village.stages[-2:] == [RolloutStage.TURNING_BACK, RolloutStage.TURNED_BACK]
    assert village.now_rolled.rollout.reason.endswith(f"{canary.id} is unreachable")
    assert village.versions() == {"1": 4}
    assert canary.machine_id not in {one.id for one in await village.machines()}
    assert await village.stores.drains.list() == []
    assert tenants(village) == 20


async def test_one_that_is_called_off_in_the_middle_leaves_the_old_version_everywhere() -> None:
    village = await settled()
    await village.begin("2")
    while village.now_rolled.rollout.stage is not RolloutStage.FLEET or village.versions()["2"] < 3:
        await village.live(1)
    await village.stores.rollouts.cancel(1, actor="key k", at=village.clock.now())
    await village.live(200)
    assert village.stages[-1] is RolloutStage.TURNED_BACK
    assert set(village.versions()) == {"1"}
    assert tenants(village) == 20
    assert await village.stores.drains.list() == []


async def test_it_comes_out_the_same_if_now_and_then_a_call_fails() -> None:
    """Before or after its work is done; each time another leader goes on."""
    for every, is_after in ((71, False), (89, True)):
        village = await settled()
        village.link.every, village.link.is_after = every, is_after
        await village.begin("2")
        await village.live(160)
        assert village.now_rolled.rollout.stage is RolloutStage.DONE, (every, is_after)
        assert set(village.versions()) == {"2"}
        assert tenants(village) == 20


async def test_an_old_leader_takes_no_step_and_proves_nothing() -> None:
    village = await settled()
    await village.begin("2")
    await village.stores.terms.raise_term("another")
    with refusing(StaleTerm):
        await village.rollout.tick(term=1)
    await village.stores.workers.register(a_worker("wk-new", worker_version="2"))
    with pytest.raises(ExceptionGroup) as caught:
        await village.trials.tick(term=1)
    assert caught.group_contains(StaleTerm)
    assert await village.stores.rollouts.proofs() == {}
    assert not [
        one for one in village.database.sandboxes.values() if one.organisation_id == FLEET_ORGANISATION
    ]


async def test_a_trial_that_was_begun_is_gone_on_with_by_the_next_leader() -> None:
    """Also if its row was not written any more; and there is one of it."""
    village = await settled()
    await village.begin("2")
    await village.stores.workers.register(a_worker("wk-new", worker_version="2"))
    village.link.breaks_at = None
    # Dies after each of its first calls in turn.
    for call in range(1, 12):
        village.link.calls, village.link.breaks_at, village.link.is_after = 0, call, True
        village.elect()
        try:
            await village.trials.tick(term=village.database.term)
        except* StoreUnavailable:
            pass
    village.link.breaks_at = None
    for _ in range(3):
        await village.trials.tick(term=village.database.term)
        await asyncio.sleep(0)
    proofs = await village.stores.rollouts.proofs()
    assert proofs[WorkerId("wk-new")].proven_at is not None
    own = [one for one in village.database.sandboxes.values() if one.organisation_id == FLEET_ORGANISATION]
    assert [one.state for one in own] == [SandboxState.STOPPED]


async def test_a_trial_for_which_nobody_waits_any_more_is_ended() -> None:
    """Its worker is drained, or the roll-out is over: no sandbox of the fleet's own stays."""
    village = await settled()
    await village.begin("2")
    await village.stores.workers.register(a_worker("wk-new", worker_version="2"))
    term = village.database.term
    await village.trials.tick(term=term)
    (own,) = [one for one in village.database.sandboxes.values() if one.organisation_id == FLEET_ORGANISATION]
    await village.stores.drains.begin(WorkerId("wk-new"), actor="somebody")
    await village.trials.tick(term=term)
    assert village.database.sandboxes[own.id].state is SandboxState.STOPPED
    proofs = await village.stores.rollouts.proofs()
    assert (proofs[WorkerId("wk-new")].sandbox_id, proofs[WorkerId("wk-new")].proven_at) == (None, None)


async def test_without_a_version_that_was_asked_for_nothing_is_done() -> None:
    village = await settled()
    term = village.database.term
    assert await village.rollout.tick(term=term) == "no other version was asked for"
    assert await village.trials.tick(term=term) == "no version is on trial"
    village.rollout.plane.__dict__["capacity"] = None
    assert await village.rollout.tick(term=term) == "no machine is launched here, so none is replaced"
