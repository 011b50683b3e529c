"""What every `ports.stores.PlacementStore` keeps: a place is decided and written in one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from sandfleet.controlplane.dependencies import Stores
from sandfleet.lifecycle.sandbox import SandboxEvent, advance
from sandfleet.model.errors import StaleLease, StaleVersion
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.operation import Operation, OperationState
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.worker import WorkerState
from sandfleet.planning.fencing import Ownership
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
from sandfleet.testing.conformance.checking import Check, refusing


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
    stores: Stores, name: str, *, step: str = "place", later_s: int = 0
) -> tuple[Operation, Sandbox]:
    """Insert a sandbox that has no place yet."""
    at = NOON + timedelta(seconds=later_s)
    sandbox = a_sandbox(name, created_at=at)
    operation = an_operation(f"op-{name}", sandbox=name, step=step, created_at=at)
    await stores.sandboxes.create(sandbox, operation, a_transition(sandbox_id=sandbox.id))
    return operation, sandbox


async def place(stores: Stores, operation: Operation, sandbox: Sandbox) -> Placed | NoPlacement:
    """Place by the usual decision."""
    return await stores.placements.place(operation, sandbox, usual(operation, sandbox), at=NOON)


async def a_placement_is_written_with_owner_epoch_step_and_log(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
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


async def a_killed_sandbox_is_not_placed(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    await stores.workers.register(a_worker())
    operation, sandbox = await asked_for(stores, "sb-one")
    await stores.sandboxes.save(advance(sandbox, SandboxEvent.KILL_REQUESTED, at=NOON), None)
    with refusing(StaleVersion):
        await place(stores, operation, sandbox)
    assert (await stores.workers.get(WorkerId("wk-one"))).committed.memory_mib == 0


async def a_replica_that_lost_the_lease_places_nothing(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    await stores.workers.register(a_worker())
    operation, sandbox = await asked_for(stores, "sb-one")
    assert operation.lease
    stale = replace(operation, lease=replace(operation.lease, token=0))
    with refusing(StaleLease):
        await place(stores, stale, sandbox)
    assert (await stores.workers.get(WorkerId("wk-one"))).committed.memory_mib == 0


async def no_placement_names_each_worker_and_writes_nothing(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    await stores.workers.register(a_worker("wk-small", total=resources(512, disk_mib=10**6)))
    await stores.workers.register(a_worker("wk-away", state=WorkerState.UNREACHABLE))
    operation, sandbox = await asked_for(stores, "sb-one")
    refused = await place(stores, operation, sandbox)
    assert isinstance(refused, NoPlacement)
    assert set(refused.refusals) == {"wk-small", "wk-away"}
    assert (await stores.sandboxes.get(ORGANISATION, sandbox.id)).version == 1


async def a_newcomer_does_not_overtake_who_waits(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    await stores.workers.register(a_worker(total=resources(1024, disk_mib=10**6)))
    waiting = await asked_for(stores, "sb-first", step="queue")
    newcomer = await asked_for(stores, "sb-second", later_s=5)
    assert await stores.placements.queue_length() == 1
    refused = await place(stores, *newcomer)
    assert isinstance(refused, NoPlacement)
    assert refused.behind == 1
    assert isinstance(await place(stores, *waiting), Placed)


async def a_reservation_given_back_is_room_for_the_next(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    await stores.workers.register(a_worker(total=resources(1024, disk_mib=10**6)))
    placed = await place(stores, *await asked_for(stores, "sb-one"))
    assert isinstance(placed, Placed)
    back = replace(placed.sandbox, worker_id=None, version=placed.sandbox.version + 1)
    queued = replace(placed.operation, step="queue")
    await stores.placements.give_back(queued, back, a_transition("refused"))
    assert (await stores.operations.get(queued.id)).step == "queue"
    assert (await stores.workers.get(WorkerId("wk-one"))).committed.memory_mib == 0
    with refusing(StaleVersion):
        await stores.placements.give_back(queued, back, a_transition("refused"))


async def release_is_idempotent_and_only_for_that_worker(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    await stores.workers.register(a_worker())
    placed = await place(stores, *await asked_for(stores, "sb-one"))
    assert isinstance(placed, Placed)
    sandbox_id = SandboxId("sb-one")
    await stores.placements.release(sandbox_id, worker_id=WorkerId("wk-other"))
    assert (await stores.workers.get(WorkerId("wk-one"))).committed.memory_mib == 1024
    for _ in range(2):
        await stores.placements.release(sandbox_id, worker_id=WorkerId("wk-one"))
    assert (await stores.workers.get(WorkerId("wk-one"))).committed.memory_mib == 0


async def presence_names_rows_reservations_and_open_operations(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
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


async def owners_are_those_of_the_rows_that_there_are(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    await stores.workers.register(a_worker())
    placed = await place(stores, *await asked_for(stores, "sb-one"))
    assert isinstance(placed, Placed)
    names = [SandboxId("sb-one"), SandboxId("sb-none")]
    owner = Ownership(placed.sandbox.epoch, WorkerId("wk-one"), is_terminal=False)
    assert await stores.workers.owners(names) == {SandboxId("sb-one"): owner}
    await stores.sandboxes.save(advance(placed.sandbox, SandboxEvent.KILL_REQUESTED, at=NOON), None)
    assert await stores.workers.owners(names) == {SandboxId("sb-one"): replace(owner, is_terminal=True)}


async def who_waits_is_told_as_the_decision_sees_it(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    await stores.workers.register(a_worker())
    assert await stores.placements.waiting() == []
    second, _ = await asked_for(stores, "sb-two", step="queue", later_s=2)
    first, _ = await asked_for(stores, "sb-one", step="queue", later_s=1)
    third, sandbox = await asked_for(stores, "sb-three", later_s=3)
    told = await stores.placements.waiting()
    assert [one.operation_id for one in told] == [first.id, second.id]
    seen: list[Waiting] = []

    def look(view: FleetView, waiting: Sequence[Waiting]) -> NoPlacement:
        seen.extend(waiting)
        return NoPlacement(refusals={})

    await stores.placements.place(third, sandbox, look, at=NOON)
    assert seen == list(told)


CHECKS: tuple[Check, ...] = (
    who_waits_is_told_as_the_decision_sees_it,
    a_placement_is_written_with_owner_epoch_step_and_log,
    a_killed_sandbox_is_not_placed,
    a_replica_that_lost_the_lease_places_nothing,
    no_placement_names_each_worker_and_writes_nothing,
    a_newcomer_does_not_overtake_who_waits,
    a_reservation_given_back_is_room_for_the_next,
    release_is_idempotent_and_only_for_that_worker,
    presence_names_rows_reservations_and_open_operations,
    owners_are_those_of_the_rows_that_there_are,
)
