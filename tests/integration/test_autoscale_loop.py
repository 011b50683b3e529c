"""The leader's loop that has sizes follow their use: over real stores, with workers in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.integration.crashing import an_order, until

from sandfleet.controlplane.dependencies import ControlPlane, NewSize
from sandfleet.controlplane.loops.autoscale import AutoscaleLoop
from sandfleet.controlplane.operations.fleet import Fleet
from sandfleet.model.errors import Conflict, Forbidden, StaleTerm
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.organisation import Caps, Quotas
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.scaling import Scaling
from sandfleet.testing.builders import ORGANISATION, a_worker, an_organisation, resources

pytestmark = pytest.mark.timeout(240)
HOME, AWAY = WorkerId("wk-one"), WorkerId("wk-two")
AT_ONCE_S = 0.000001


async def a_plane(replicas: Any, *, room_mib: int = 16384, **settings: Any) -> ControlPlane:
    """Return a replica's parts, with a tenant, a worker and a term; nothing has to be quiet for long."""
    plane: ControlPlane = replicas.plane("replica-1", **{"autoscale_shrink_after_s": AT_ONCE_S, **settings})
    await plane.stores.organisations.create(an_organisation())
    await plane.stores.workers.register(a_worker(total=resources(room_mib, cpu_count=8, disk_mib=10**7)))
    await plane.stores.terms.raise_term("replica-1")
    return plane


async def following(
    plane: ControlPlane, fleet: Fleet, name: str = "sb-one", *, scaling: Scaling | None = None
) -> Sandbox:
    """Create a sandbox of 1024 MiB whose size follows its use."""
    await fleet.create(an_order(name))
    row = await until(plane, lambda row: row.state is SandboxState.RUNNING, name)
    after = replace(row, scaling=scaling or Scaling(is_automatic=True), version=row.version + 1)
    await plane.stores.sandboxes.save(after, None)
    return after


async def has(plane: ControlPlane, memory_mib: int, name: str = "sb-one") -> Sandbox:
    """Return the row when it has that size and nothing is under way."""

    def is_so(row: Sandbox) -> bool:
        return row.state is SandboxState.RUNNING and row.resources.memory_mib == memory_mib

    return await until(plane, is_so, name)


async def test_it_grows_with_its_use_and_shrinks_again_and_each_change_says_why(replicas: Any) -> None:
    plane = await a_plane(replicas)
    async with replicas.replica("replica-1", plane=plane) as fleet:
        loop = fleet.autoscaling
        assert await loop.tick(term=1) == "no sandbox's size follows its use"
        sandbox = await following(plane, fleet)
        replicas.workers.used_mib[sandbox.id] = 900
        assert await loop.tick(term=1) == "of 1 sandboxes 1 begin to change their size"
        grown = await has(plane, 2048)
        assert grown.scaling == sandbox.scaling  # its own change does not end it
        assert await loop.tick(term=1) == "of 1 sandboxes 0 begin to change their size"
        replicas.workers.used_mib[sandbox.id] = 100
        await loop.tick(term=1)
        await loop.tick(term=1)
        await has(plane, 1024)
    log = await plane.stores.sandboxes.transitions(ORGANISATION, sandbox.id)
    asked = [(row.actor, row.reason) for row in log if row.event == "resize_requested"]
    assert asked[1] == ("autoscale", "1024 to 2048 MiB: it uses 900 of 1024 MiB")
    assert asked[0][1].startswith("2048 to 1024 MiB: for 0 s it has used no more than 50%")
    assert (await plane.stores.workers.get(HOME)).committed.memory_mib == 1024


async def test_it_keeps_the_cpu_limit_and_its_bounds_and_the_cap(replicas: Any) -> None:
    plane = await a_plane(replicas)
    async with replicas.replica("replica-1", plane=plane) as fleet:
        sandbox = await following(
            plane, fleet, scaling=Scaling(is_automatic=True, memory_min_mib=1024, memory_max_mib=8192)
        )
        slowed = replace(sandbox, cpu_percent=50, version=sandbox.version + 1)
        await plane.stores.sandboxes.save(slowed, None)
        await plane.stores.organisations.change(ORGANISATION, name=None, quotas=None, caps=Caps(1600))
        replicas.workers.used_mib[sandbox.id] = 1000
        await fleet.autoscaling.tick(term=1)
        grown = await has(plane, 1536)
        assert grown.cpu_percent == 50
        replicas.workers.used_mib[sandbox.id] = 1500
        assert await fleet.autoscaling.tick(term=1) == "of 1 sandboxes 0 begin to change their size"
        replicas.workers.used_mib[sandbox.id] = 10
        for _ in range(5):
            await fleet.autoscaling.tick(term=1)
        await has(plane, 1024)


async def test_what_has_no_room_where_it_is_grows_elsewhere(replicas: Any) -> None:
    plane = await a_plane(replicas, room_mib=1536)
    async with replicas.replica("replica-1", plane=plane) as fleet:
        sandbox = await following(plane, fleet)
        room = resources(8192, cpu_count=8, disk_mib=10**7)
        await plane.stores.workers.register(a_worker(AWAY, total=room))
        replicas.workers.used_mib[sandbox.id] = 1000
        await fleet.autoscaling.tick(term=1)
        grown = await has(plane, 2048)
    assert (grown.worker_id, grown.scaling.is_automatic) == (AWAY, True)
    log = await plane.stores.sandboxes.transitions(ORGANISATION, sandbox.id)
    (asked,) = [row.reason for row in log if row.event == "migrate_requested"]
    assert asked.endswith("1024 to 2048 MiB: it uses 1000 of 1024 MiB")


@pytest.mark.parametrize("refusal", ["quota", "room", "guest"])
async def test_what_is_refused_is_left_alone_for_a_while_and_costs_nothing(
    replicas: Any, refusal: str
) -> None:
    plane = await a_plane(replicas, room_mib=1536 if refusal == "room" else 16384)
    organisations = plane.stores.organisations
    async with replicas.replica("replica-1", plane=plane) as fleet:
        sandbox = await following(plane, fleet)
        replicas.workers.used_mib[sandbox.id] = 1000
        if refusal == "quota":
            await organisations.change(ORGANISATION, name=None, quotas=Quotas(memory_mib=1024), caps=None)
        if refusal == "guest":
            replicas.workers.host(HOME).resize_failure = Conflict("it does not", code="oom_floor")
        await fleet.autoscaling.tick(term=1)
        after = await has(plane, 1024)
        assert after.scaling.is_automatic
        await organisations.change(ORGANISATION, name=None, quotas=Quotas(), caps=None)
        assert await fleet.autoscaling.tick(term=1) == "of 1 sandboxes 0 begin to change their size"
    assert (await plane.stores.workers.get(HOME)).committed.memory_mib == 1024


async def test_an_old_leader_begins_nothing_and_a_new_one_waits_for_quiet_anew(replicas: Any) -> None:
    plane = await a_plane(replicas)
    async with replicas.replica("replica-1", plane=plane) as fleet:
        sandbox = await following(plane, fleet)
        replicas.workers.used_mib[sandbox.id] = 10
        await fleet.autoscaling.tick(term=1)  # quiet since now
        await plane.stores.terms.raise_term("replica-2")
        with pytest.raises(StaleTerm):
            await fleet.autoscaling.tick(term=1)
        assert await fleet.autoscaling.tick(term=2) == "of 1 sandboxes 0 begin to change their size"
        assert "1 begin" in await fleet.autoscaling.tick(term=2)
        await has(plane, 512)


async def test_what_cannot_be_asked_is_left_as_it_is(replicas: Any) -> None:
    plane = await a_plane(replicas)
    async with replicas.replica("replica-1", plane=plane) as fleet:
        sandbox = await following(plane, fleet)
        replicas.workers.used_mib[sandbox.id] = 1000
        replicas.workers.host(HOME).is_unreachable = True
        assert await fleet.autoscaling.tick(term=1) == (
            "of 1 sandboxes 0 begin to change their size, the use of 1 is not known"
        )
        replicas.workers.host(HOME).is_unreachable = False
    assert (await plane.stores.sandboxes.get_any(sandbox.id)).version == sandbox.version


async def test_a_change_by_hand_comes_first_and_a_lock_holds_for_every_way(replicas: Any) -> None:
    plane = await a_plane(replicas)
    async with replicas.replica("replica-1", plane=plane) as fleet:
        sandbox = await following(plane, fleet)
        replicas.workers.used_mib[sandbox.id] = 1000
        replicas.workers.host(HOME).is_unreachable = True
        await fleet.resize(sandbox, NewSize(4096, None), operation_id="op-hand", actor="test")
        # Its guest has not answered yet: nothing else begins.
        loop = AutoscaleLoop(plane, fleet.engine.start)
        await loop.tick(term=1)
        replicas.workers.host(HOME).is_unreachable = False
        by_hand = await has(plane, 4096)
        assert not by_hand.scaling.is_automatic
        assert await loop.tick(term=1) == "no sandbox's size follows its use"
        locked = replace(by_hand, scaling=Scaling(is_locked=True), version=by_hand.version + 1)
        await plane.stores.sandboxes.save(locked, None)
        with pytest.raises(Forbidden):
            await fleet.resize(locked, NewSize(512, None), operation_id="op-no", actor="test")


async def test_many_are_looked_at_page_by_page(replicas: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandfleet.controlplane.loops.autoscale.PAGE_MAX", 2)
    plane = await a_plane(replicas)
    async with replicas.replica("replica-1", plane=plane) as fleet:
        names = [f"sb-{number}" for number in range(5)]
        for name in names:
            await following(plane, fleet, name)
            replicas.workers.used_mib[SandboxId(name)] = 1000
        said = [await fleet.autoscaling.tick(term=1) for _ in range(3)]
        assert [sentence.partition(" sandboxes ")[0] for sentence in said] == ["of 2", "of 2", "of 1"]
        for name in names:
            await has(plane, 2048, name)
