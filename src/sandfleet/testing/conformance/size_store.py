"""What every `ports.sizes.SizeStore` keeps of changes that the fleet makes by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sandfleet.controlplane.dependencies import Stores
from sandfleet.model.errors import StaleTerm
from sandfleet.model.ids import OperationId, SandboxId
from sandfleet.model.operation import OperationKind
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.scaling import Scaling
from sandfleet.planning.placement import FleetView, Placement
from sandfleet.planning.queue import Waiting
from sandfleet.ports.stores import Placed
from sandfleet.testing.builders import a_transition, a_worker, an_operation, an_organisation
from sandfleet.testing.conformance.checking import Check, create, refusing

FOLLOWS = Scaling(is_automatic=True)


async def _running(stores: Stores, name: str, scaling: Scaling) -> Sandbox:
    """Write a sandbox that has its place and runs."""
    sandbox = await create(stores, name, scaling=scaling)
    operation = await stores.operations.get(OperationId(f"op-{name}"))

    def here(view: FleetView, waiting: Sequence[Waiting]) -> Placement:
        return Placement(a_worker().id, "the only one")

    placed = await stores.placements.place(operation, sandbox, here, at=sandbox.created_at)
    assert isinstance(placed, Placed)
    runs = replace(placed.sandbox, state=SandboxState.RUNNING, version=placed.sandbox.version + 1)
    await stores.sandboxes.save(runs, None)
    return runs


async def those_whose_size_follows_their_use_come_in_pages(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    await stores.workers.register(a_worker())
    for name in ("sb-c", "sb-a", "sb-b"):
        await _running(stores, name, FOLLOWS)
    await _running(stores, "sb-by-hand", Scaling(memory_max_mib=4096))
    await create(stores, "sb-coming", scaling=FOLLOWS)
    first = await stores.sizes.autoscaled(after=None, limit=2)
    assert [row.id for row in first] == ["sb-a", "sb-b"]
    assert first[0].scaling == FOLLOWS
    rest = await stores.sizes.autoscaled(after=SandboxId("sb-b"), limit=2)
    assert [row.id for row in rest] == ["sb-c"]


async def an_old_leader_begins_no_change_and_reserves_nothing(stores: Stores) -> None:
    await stores.organisations.create(an_organisation())
    await stores.workers.register(a_worker())
    before = await _running(stores, "sb-one", FOLLOWS)
    term = await stores.terms.raise_term("replica-1")
    await stores.terms.raise_term("replica-2")
    after = replace(before, version=before.version + 1)
    change = an_operation("op-size", kind=OperationKind.RESIZE)
    with refusing(StaleTerm):
        await stores.sizes.begin(
            after, change, a_transition("resize_requested"), memory_mib=2048, refuse=_room, term=term
        )
    assert (await stores.workers.get(a_worker().id)).committed.memory_mib == 1024
    await stores.sizes.begin(
        after, change, a_transition("resize_requested"), memory_mib=2048, refuse=_room, term=term + 1
    )
    assert (await stores.workers.get(a_worker().id)).committed.memory_mib == 2048


def _room(_worker: object, _extra_mib: int) -> None:
    return None


CHECKS: tuple[Check, ...] = (
    those_whose_size_follows_their_use_come_in_pages,
    an_old_leader_begins_no_change_and_reserves_nothing,
)
