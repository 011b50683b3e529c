"""Who leads, and how soon another does: real leases, real terms, several replicas in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tests.integration.saved import collect, ids, one_running, until

from sandfleet.adapters.redis import wakeups
from sandfleet.controlplane.loops import leadership
from sandfleet.controlplane.loops.leadership import Leadership
from sandfleet.controlplane.loops.runner import Loop, LoopRunner
from sandfleet.controlplane.operations.fleet import Fleet
from sandfleet.controlplane.settings import ControlPlaneSettings
from sandfleet.controlplane.wiring import instance_id
from sandfleet.model.sandbox import SandboxState
from sandfleet.wire.worker_messages import SnapshotDropped

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def running() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def leads(fleet: Fleet) -> float:
    """Return when this replica leads."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        while fleet.leadership.term is None:
            await asyncio.sleep(0.005)
    return loop.time()


async def test_a_leader_that_goes_wakes_the_one_that_waits(
    replicas: Any, running: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits would ask by itself only when this test has long been over."""
    monkeypatch.setattr(leadership, "TICKS_PER_LEASE", 0.05)
    monkeypatch.setattr(wakeups, "FALLBACK_S", 240)
    replicas.settings["leader_lease_s"] = 12
    first = await running.enter_async_context(replicas.replica("one", with_loops=True))
    await leads(first)
    second = await running.enter_async_context(replicas.replica("two", with_loops=True))
    await asyncio.sleep(0.3)  # it has asked once, in vain
    assert second.leadership.term is None
    await first.retire()
    await leads(second)
    assert (first.leadership.term, second.leadership.term) == (None, 2)
    await first.retire()  # twice is as good as once
    assert second.leadership.term == 2


async def test_a_leader_that_dies_costs_its_lease_and_little_more(
    replicas: Any, running: AsyncExitStack
) -> None:
    replicas.settings["leader_lease_s"] = 2
    dead = Leadership(replicas.plane("dead"))
    began = asyncio.get_running_loop().time()
    await dead.tick()  # and never again
    heir = await running.enter_async_context(replicas.replica("heir", with_loops=True))
    assert 1.9 < await leads(heir) - began < 20


async def test_a_new_leader_acts_at_once(replicas: Any) -> None:
    """Its loops do not wait out the pauses that they began as a follower's."""
    plane = replicas.plane("one")
    leadership = Leadership(plane)
    acted = asyncio.Event()

    async def act(term: int) -> str:
        acted.set()
        return f"term {term}"

    runner = LoopRunner(plane, leadership, (Loop("slow", 3600, act),))
    async with asyncio.TaskGroup() as tasks:
        looping = tasks.create_task(runner.run())
        await asyncio.sleep(0.05)
        assert not acted.is_set()
        await leadership.tick()
        await asyncio.wait_for(acted.wait(), 60)
        looping.cancel()
    assert runner.sentences["slow"] == "term 1"


def test_two_processes_of_one_name_are_two_holders() -> None:
    settings = ControlPlaneSettings(
        postgres_url="postgresql://x",
        redis_url="redis://x",
        master_secret="5a" * 32,
        bootstrap_key="bootstrap-key-of-tests",
        join_token="join-token-of-tests",
        replica_id="server-1",
    )
    names = {instance_id(settings) for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("server-1-") for name in names)


@pytest.mark.parametrize("lease_s", [0.1, 13])
def test_a_lease_that_would_break_the_bound_is_refused(lease_s: float) -> None:
    with pytest.raises(ValueError, match="leader_lease_s"):
        ControlPlaneSettings(
            postgres_url="postgresql://x",
            redis_url="redis://x",
            master_secret="5a" * 32,
            bootstrap_key="bootstrap-key-of-tests",
            join_token="join-token-of-tests",
            leader_lease_s=lease_s,
        )


async def test_what_the_leader_removes_from_a_worker_it_removes_in_its_term(
    replicas: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one call to a worker that a leader makes by itself; all else it begins as operations."""
    observer, sandbox = await one_running(replicas)
    async with replicas.replica("one") as fleet:
        await fleet.hibernate(sandbox, ids=ids("first"), actor="test")
        asleep = await until(observer, lambda row: row.state is SandboxState.HIBERNATED)
        await fleet.kill(asleep, actor="test")
        await until(observer, lambda row: row.state is SandboxState.STOPPED and row.worker_id is None)
    drop, terms = replicas.workers.drop_snapshot, []

    async def noting(*target: str, term: int = 0) -> SnapshotDropped:
        terms.append(term)
        dropped: SnapshotDropped = await drop(*target, term=term)
        return dropped

    monkeypatch.setattr(replicas.workers, "drop_snapshot", noting)
    newest = await observer.stores.terms.raise_term("one")
    await collect(observer)
    assert set(terms) == {newest}
