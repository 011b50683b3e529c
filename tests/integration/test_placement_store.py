"""Reservations in a real PostgreSQL: parallel placements never oversell a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from sandfleet.adapters.postgres.wiring import PostgresStores, open_stores
from sandfleet.lifecycle.sandbox import SandboxEvent, advance
from sandfleet.model.errors import Conflict, NotFound, StaleLease, StaleVersion
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.operation import Operation, OperationState
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.worker import WorkerState
from sandfleet.planning.placement import FleetView, NoPlacement, Placement, PlacementPolicy, PlacementRequest
from sandfleet.planning.queue import Waiting, place_in_turn
from sandfleet.ports.stores import Placed, PlacementDecision
from sandfleet.testing.builders import (
    NOON,
    ORGANISATION,
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


async def test_a_placement_is_written_with_owner_epoch_step_and_log(stores: PostgresStores) -> None:
    await stores.workers.register(a_worker())
    operation, sandbox = await asked_for(stores, "sb-one")
    placed = await place(stores, operation, sandbox)
    assert isinstance(placed, Placed)
    assert await stores.sandboxes.get(ORGANISATION, sandbox.id) == placed.sandbox
    assert (placed.sandbox.worker_id, placed.sandbox.epoch) == ("wk-one", 1)
    assert placed.sandbox.template_version == "digest-1"
    stored = await stores.operations.get(operation.id)
    assert (stored.step, stored.progress["worker_url"]) == ("start", "http://wk-one:9000")
    log = await stores.sandboxes.transitions(ORGANISATION, sandbox.id)
    assert [row.event for row in log] == ["placed", "created"]


async def test_a_killed_sandbox_is_not_placed(stores: PostgresStores) -> None:
    await stores.workers.register(a_worker())
    operation, sandbox = await asked_for(stores, "sb-one")
    await stores.sandboxes.save(advance(sandbox, SandboxEvent.KILL_REQUESTED, at=NOON), None)
    with pytest.raises(StaleVersion):
        await place(stores, operation, sandbox)
    assert (await stores.workers.get(WorkerId("wk-one"))).committed.memory_mib == 0


async def test_a_replica_that_lost_the_lease_places_nothing(stores: PostgresStores) -> None:
    await stores.workers.register(a_worker())
    operation, sandbox = await asked_for(stores, "sb-one")
    assert operation.lease
    stale = replace(operation, lease=replace(operation.lease, token=0))
    with pytest.raises(StaleLease):
        await place(stores, stale, sandbox)
    assert (await stores.workers.get(WorkerId("wk-one"))).committed.memory_mib == 0


async def test_no_placement_names_each_worker_and_writes_nothing(stores: PostgresStores) -> None:
    await stores.workers.register(a_worker("wk-small", total=resources(512, disk_mib=10**6)))
    await stores.workers.register(a_worker("wk-away", state=WorkerState.UNREACHABLE))
    operation, sandbox = await asked_for(stores, "sb-one")
    refused = await place(stores, operation, sandbox)
    assert isinstance(refused, NoPlacement)
    assert set(refused.refusals) == {"wk-small", "wk-away"}
    assert (await stores.sandboxes.get(ORGANISATION, sandbox.id)).version == 1


async def test_a_newcomer_does_not_overtake_who_waits(stores: PostgresStores) -> None:
    await stores.workers.register(a_worker(total=resources(1024, disk_mib=10**6)))
    waiting = await asked_for(stores, "sb-first", step="queue")
    newcomer = await asked_for(stores, "sb-second", later_s=5)
    assert await stores.placements.queue_length() == 1
    refused = await place(stores, *newcomer)
    assert isinstance(refused, NoPlacement)
    assert refused.behind == 1
    assert isinstance(await place(stores, *waiting), Placed)


async def test_a_reservation_given_back_is_room_for_the_next(stores: PostgresStores) -> None:
    await stores.workers.register(a_worker(total=resources(1024, disk_mib=10**6)))
    placed = await place(stores, *await asked_for(stores, "sb-one"))
    assert isinstance(placed, Placed)
    back = replace(placed.sandbox, worker_id=None, version=placed.sandbox.version + 1)
    queued = replace(placed.operation, step="queue")
    await stores.placements.give_back(queued, back, a_transition("refused"))
    assert (await stores.operations.get(queued.id)).step == "queue"
    assert (await stores.workers.get(WorkerId("wk-one"))).committed.memory_mib == 0
    with pytest.raises(StaleVersion):
        await stores.placements.give_back(queued, back, a_transition("refused"))


async def test_release_is_idempotent_and_only_for_that_worker(stores: PostgresStores) -> None:
    await stores.workers.register(a_worker())
    placed = await place(stores, *await asked_for(stores, "sb-one"))
    assert isinstance(placed, Placed)
    sandbox_id = SandboxId("sb-one")
    await stores.placements.release(sandbox_id, worker_id=WorkerId("wk-other"))
    assert (await stores.workers.get(WorkerId("wk-one"))).committed.memory_mib == 1024
    for _ in range(2):
        await stores.placements.release(sandbox_id, worker_id=WorkerId("wk-one"))
    assert (await stores.workers.get(WorkerId("wk-one"))).committed.memory_mib == 0


async def test_presence_names_rows_reservations_and_open_operations(stores: PostgresStores) -> None:
    await stores.workers.register(a_worker())
    placed = await place(stores, *await asked_for(stores, "sb-one"))
    assert isinstance(placed, Placed)
    (present,) = await stores.sandboxes.presence(WorkerId("wk-one"))
    assert (present.sandbox_id, present.has_reservation, present.has_open_operation) == ("sb-one", True, True)
    ended = replace(placed.operation, state=OperationState.SUCCEEDED)
    await stores.operations.finish(ended, releases=True)
    (present,) = await stores.sandboxes.presence(WorkerId("wk-one"))
    assert (present.has_reservation, present.has_open_operation) == (False, False)
    assert len(await stores.sandboxes.on_worker(WorkerId("wk-one"))) == 1


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
    assert isinstance(await asyncio.wait_for(place(stores, *again), 2), Placed)


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
