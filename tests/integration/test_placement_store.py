"""Reservations in a real PostgreSQL: parallel placements never oversell a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from sandfleet.adapters.postgres.wiring import PostgresStores, open_stores
from sandfleet.model.errors import Conflict, NotFound
from sandfleet.model.ids import WorkerId
from sandfleet.model.operation import Operation
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.worker import WorkerState
from sandfleet.planning.placement import FleetView, NoPlacement, Placement, PlacementPolicy, PlacementRequest
from sandfleet.planning.queue import Waiting, place_in_turn
from sandfleet.ports.stores import Placed, PlacementDecision
from sandfleet.testing.builders import (
    NOON,
    a_sandbox,
    a_transition,
    a_worker,
    an_operation,
    an_organisation,
    resources,
)

MASTER_SECRET = "5a" * 32


@pytest.fixture(autouse=True)
async def _organisation(stores: PostgresStores) -> None:
    await stores.organisations.create(an_organisation())


def usual(operation: Operation, sandbox: Sandbox) -> PlacementDecision:
    """Return the real decision of the fleet."""
    mine = Waiting(
        operation.id,
        sandbox.organisation_id,
        operation.created_at,
        PlacementRequest(sandbox.resources, sandbox.template, sandbox.region),
    )

    def decide(view: FleetView, waiting: Sequence[Waiting]) -> Placement | NoPlacement:
        return place_in_turn(mine, waiting, view, PlacementPolicy())

    return decide


async def asked_for(
    stores: PostgresStores, name: str, *, step: str = "place", later_s: int = 0, memory_mib: int = 1024
) -> tuple[Operation, Sandbox]:
    """Insert a sandbox that has no place yet."""
    at = NOON + timedelta(seconds=later_s)
    sandbox = a_sandbox(name, resources=resources(memory_mib), created_at=at)
    operation = an_operation(f"op-{name}", sandbox=name, step=step, created_at=at)
    await stores.sandboxes.create(sandbox, operation, a_transition(sandbox_id=sandbox.id))
    return operation, sandbox


async def place(stores: PostgresStores, operation: Operation, sandbox: Sandbox) -> Placed | NoPlacement:
    """Place by the usual decision."""
    return await stores.placements.place(operation, sandbox, usual(operation, sandbox), at=NOON)


async def test_a_hundred_parallel_placements_from_two_replicas_never_oversell(
    stores: PostgresStores, postgres_url: str
) -> None:
    for name in ("wk-a", "wk-b"):
        await stores.workers.register(a_worker(name, total=resources(20 * 1024, disk_mib=10**7)))
    asked = [await asked_for(stores, f"sb-{number:03}") for number in range(100)]
    other = open_stores(postgres_url, master_secret=MASTER_SECRET)
    results = await asyncio.gather(
        *(place(stores if at % 2 else other, *one) for at, one in enumerate(asked))
    )
    assert sum(isinstance(result, Placed) for result in results) == 40
    assert [worker.committed.memory_mib for worker in await stores.workers.list()] == [20480, 20480]
    await other.database.close()


async def test_cancelled_callers_leave_no_connection_and_no_lock_behind(stores: PostgresStores) -> None:
    await stores.workers.register(a_worker(total=resources(10**6, cpu_count=64, disk_mib=10**9)))
    asked = [await asked_for(stores, f"sb-{number:03}") for number in range(60)]
    async with asyncio.TaskGroup() as tasks:
        for at, one in enumerate(asked):
            task = tasks.create_task(place(stores, *one))
            asyncio.get_running_loop().call_later(0.001 * at, task.cancel)
    pool: Any = stores.database.engine.pool
    assert pool.checkedout() == 0
    placed = await stores.sandboxes.on_worker(WorkerId("wk-one"))
    worker = await stores.workers.get(WorkerId("wk-one"))
    assert worker.committed.memory_mib == 1024 * len(placed)
    again = await asked_for(stores, "sb-last")
    assert isinstance(await asyncio.wait_for(place(stores, *again), 60), Placed)


async def test_only_an_empty_worker_is_forgotten_and_it_stays_so(stores: PostgresStores) -> None:
    await stores.workers.register(a_worker("wk-full"))
    assert isinstance(await place(stores, *await asked_for(stores, "sb-one")), Placed)
    await stores.workers.register(a_worker("wk-empty"))
    with pytest.raises(Conflict) as full:
        await stores.workers.forget(WorkerId("wk-full"), is_lost=False, actor="test")
    assert full.value.code == "worker_not_empty"
    assert full.value.details == {"sandboxes": 1, "reservations": 1, "snapshots": 0}
    assert (await stores.workers.get(WorkerId("wk-full"))).state is WorkerState.READY
    for _ in range(2):
        gone = await stores.workers.forget(WorkerId("wk-empty"), is_lost=False, actor="test")
        assert gone.state is WorkerState.GONE
    again = await stores.workers.register(a_worker("wk-empty", sequence=2))
    assert again.worker.state is WorkerState.GONE
    with pytest.raises(NotFound):
        await stores.workers.forget(WorkerId("wk-none"), is_lost=False, actor="test")


async def test_a_worker_that_speaks_is_not_lost(stores: PostgresStores) -> None:
    term = await stores.terms.raise_term("leader")
    await stores.workers.register(a_worker())
    with pytest.raises(Conflict) as alive:
        await stores.workers.forget(WorkerId("wk-one"), is_lost=True, actor="test")
    assert alive.value.code == "worker_alive"
    await stores.workers.mark_absent(WorkerState.SILENT, silent_for=timedelta(0), term=term)
    gone = await stores.workers.forget(WorkerId("wk-one"), is_lost=True, actor="test")
    assert gone.state is WorkerState.GONE
