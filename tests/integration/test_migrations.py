"""Migrations on real stores and workers in memory: whatever dies, one copy runs, no place stays promised."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from tests.integration.crashing import (
    Tripwire,
    an_order,
    committed_mib,
    crash,
    prepare,
    run_until_hung,
    until,
)

from sandfleet.controlplane.loops import takeover
from sandfleet.controlplane.operations import migrate as migrate_operation
from sandfleet.model.errors import (
    BadRequest,
    Conflict,
    HypervisorFailed,
    NotFound,
    SnapshotUnusable,
    TargetUnavailable,
)
from sandfleet.model.ids import OperationId, WorkerId
from sandfleet.model.operation import OperationState
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.worker import WorkerState
from sandfleet.testing.builders import ORGANISATION, a_worker, resources
from sandfleet.wire.move_messages import FAILED, UNDECIDED

pytestmark = pytest.mark.timeout(60)
HOME, AWAY = WorkerId("wk-one"), WorkerId("wk-two")
CALLS = 13
POINTS = [(number, when) for number in range(CALLS) for when in ("before", "after")]


async def a_running(replicas: Any, **changes: Any) -> tuple[Any, Sandbox]:
    """Return an observer and a sandbox that runs on one of two workers."""
    observer = await prepare(replicas)
    async with replicas.replica("replica-0") as fleet:
        await fleet.create(an_order(envs={"A": "b"}))
        sandbox = await until(observer, lambda row: row.state is SandboxState.RUNNING)
    await observer.stores.workers.register(a_worker(AWAY, **changes))
    return observer, sandbox


def migrate(fleet: Any, sandbox: Sandbox, target: WorkerId | None = AWAY) -> Any:
    return fleet.migrate(sandbox, target=target, operation_id="op-move", actor="test")


def copies(replicas: Any) -> list[tuple[str, str, int]]:
    """Return every machine of the sandbox: where it is, how it stands, under which epoch."""
    hosts = replicas.workers.hosts
    return [(name, vm.state, vm.epoch) for name, host in hosts.items() for vm in host.vms.values()]


async def moved(replicas: Any, observer: Any, sandbox: Sandbox, **how: Any) -> Any:
    """Migrate to the end; return the operation."""
    async with replicas.replica("replica-1") as fleet:
        await migrate(fleet, sandbox, **how)
        ended = await fleet.engine.wait_for(OperationId("op-move"), timeout_s=20)
        await until(observer, lambda row: row.state is SandboxState.RUNNING)
    assert replicas.movers.violations == []
    assert await committed_mib(observer) == 1024
    return ended


async def test_a_move_changes_owner_and_epoch_and_leaves_nothing_behind(replicas: Any) -> None:
    observer, sandbox = await a_running(replicas)
    ended = await moved(replicas, observer, sandbox)
    assert (ended.state, ended.arguments["source"], ended.arguments["target"]) == ("succeeded", HOME, AWAY)
    assert ended.progress["downtime_ms"] > 0
    after = await observer.stores.sandboxes.get_any(sandbox.id)
    assert (after.worker_id, after.epoch, after.active_at) == (AWAY, 2, sandbox.active_at)
    assert copies(replicas) == [(AWAY, "running", 2)]
    workers = {worker.id: worker.committed.memory_mib for worker in await observer.stores.workers.list()}
    assert workers == {HOME: 0, AWAY: 1024}
    route = await observer.routes.get(sandbox.id)
    assert route is None or (route.worker_id, route.epoch) == (AWAY, 2)
    log = await observer.stores.sandboxes.transitions(ORGANISATION, sandbox.id)
    assert [row.event for row in log][:3] == ["migrated", "moved", "migrate_requested"]
    assert log[0].detail["downtime_ms"] == ended.progress["downtime_ms"]


@pytest.mark.parametrize(("number", "when"), POINTS)
async def test_a_move_survives_the_death_of_its_replica_at_any_point(
    replicas: Any, number: int, when: str
) -> None:
    observer, sandbox = await a_running(replicas)
    wire = Tripwire(number, when)
    was_reached = await run_until_hung(replicas, wire, lambda fleet: migrate(fleet, sandbox), looks_up=False)
    assert was_reached
    running = [name for name, state, _ in copies(replicas) if state == "running"]
    assert len(running) <= 1
    await crash(replicas, observer)
    async with replicas.replica("replica-2") as fleet:
        await takeover.tick(fleet.engine._plane, fleet.engine)
        after = await until(observer, lambda row: row.state is SandboxState.RUNNING)
    has_begun = (number, when) != (0, "before")
    assert copies(replicas) == [(AWAY if has_begun else HOME, "running", after.epoch)]
    assert after.worker_id == (AWAY if has_begun else HOME)
    assert replicas.movers.violations == []
    assert await committed_mib(observer) == 1024


@pytest.mark.parametrize(("number", "when"), [point for point in POINTS if point[0] > 0])
async def test_a_kill_wins_against_a_move_at_any_point(replicas: Any, number: int, when: str) -> None:
    observer, sandbox = await a_running(replicas)
    wire = Tripwire(number, when)
    plane = wire.around(replicas.plane("replica-1"), looks_up=False)
    async with replicas.replica("replica-1", plane=plane) as slow, replicas.replica("replica-2") as killer:
        await migrate(slow, sandbox)
        await asyncio.wait_for(wire.hung.wait(), 10)
        row = await observer.stores.sandboxes.get_any(sandbox.id)
        killed = await killer.kill(row, actor="test")
        assert killed.state is SandboxState.STOPPED
        wire.may_go_on.set()
        await until(observer, lambda row: row.worker_id is None)
    assert copies(replicas) == []
    assert await committed_mib(observer) == 0
    assert replicas.movers.violations == []


async def test_a_kill_that_meets_a_commit_whose_answer_is_under_way_leaves_nothing(replicas: Any) -> None:
    """The commit is written, and its writer is cancelled before it knows: the source is the one to clear."""
    observer, sandbox = await a_running(replicas)
    plane = replicas.plane("replica-1", operation_lease_s=0.5)
    commit, is_written = plane.stores.moves.commit, asyncio.Event()

    async def without_answer(*given: Any, **named: Any) -> None:
        await commit(*given, **named)
        is_written.set()
        await asyncio.Event().wait()

    plane.stores.moves.commit = without_answer
    async with replicas.replica("replica-1", plane=plane) as slow, replicas.replica("replica-2") as killer:
        await migrate(slow, sandbox)
        await asyncio.wait_for(is_written.wait(), 10)
        await killer.kill(await observer.stores.sandboxes.get_any(sandbox.id), actor="test")
        await until(observer, lambda row: row.worker_id is None)
    assert copies(replicas) == []
    assert await committed_mib(observer) == 0


async def test_an_undecided_hand_over_is_asked_about_until_it_is_decided(replicas: Any) -> None:
    observer, sandbox = await a_running(replicas)
    replicas.movers.ends_with = UNDECIDED
    ended = await moved(replicas, observer, sandbox)
    assert ended.state is OperationState.SUCCEEDED
    assert copies(replicas) == [(AWAY, "running", 2)]


async def test_what_the_target_lacks_is_published_by_the_source(replicas: Any) -> None:
    observer, sandbox = await a_running(replicas)
    replicas.movers.receive_failure = SnapshotUnusable("a backing file is missing")
    assert (await moved(replicas, observer, sandbox)).state is OperationState.SUCCEEDED
    assert replicas.movers.published == 1


async def _stayed(replicas: Any, observer: Any, sandbox: Sandbox, code: str) -> None:
    ended = await moved(replicas, observer, sandbox)
    assert (ended.state, ended.error_code) == (OperationState.FAILED, code)
    after = await observer.stores.sandboxes.get_any(sandbox.id)
    assert (after.worker_id, after.epoch) == (HOME, 1)
    assert copies(replicas) == [(HOME, "running", 1)]
    assert replicas.movers.places == {}
    log = await observer.stores.sandboxes.transitions(ORGANISATION, sandbox.id)
    assert log[0].event == "migrate_failed"


async def test_a_source_that_gives_up_keeps_it(replicas: Any) -> None:
    observer, sandbox = await a_running(replicas)
    replicas.movers.ends_with = FAILED
    await _stayed(replicas, observer, sandbox, "internal")


async def test_a_target_that_refuses_leaves_it_where_it_is(replicas: Any) -> None:
    observer, sandbox = await a_running(replicas)
    replicas.movers.receive_failure = Conflict("it has none of that", code="busy")
    await _stayed(replicas, observer, sandbox, "busy")


async def test_a_target_that_lost_it_is_never_committed(replicas: Any) -> None:
    observer, sandbox = await a_running(replicas)
    replicas.movers.landing_failure = HypervisorFailed("the machine has not arrived")
    await _stayed(replicas, observer, sandbox, "internal")


@pytest.mark.parametrize("number", [8, 9])
async def test_once_it_was_told_to_stay_nobody_commits_it(replicas: Any, number: int) -> None:
    observer, sandbox = await a_running(replicas)
    replicas.movers.landing_failure = HypervisorFailed("the machine has not arrived")
    wire = Tripwire(number, "after")  # `back` is written; the source was told to stay
    assert await run_until_hung(replicas, wire, lambda fleet: migrate(fleet, sandbox), looks_up=False)
    replicas.movers.landing_failure = None
    await crash(replicas, observer)
    async with replicas.replica("replica-2") as fleet:
        await takeover.tick(fleet.engine._plane, fleet.engine)
        after = await until(observer, lambda row: row.state is SandboxState.RUNNING)
    assert (after.worker_id, after.epoch) == (HOME, 1)
    assert copies(replicas) == [(HOME, "running", 1)]
    assert replicas.movers.violations == []
    assert await committed_mib(observer) == 1024


async def test_a_source_that_does_not_answer_is_waited_for(replicas: Any) -> None:
    observer, sandbox = await a_running(replicas)
    async with replicas.replica("replica-1") as fleet:
        replicas.workers.host(HOME).is_unreachable = True
        await migrate(fleet, sandbox)
        await asyncio.sleep(0.3)
        row = await observer.stores.sandboxes.get_any(sandbox.id)
        assert (row.state, row.worker_id) == (SandboxState.MIGRATING, HOME)
        replicas.workers.host(HOME).is_unreachable = False
        await until(observer, lambda row: row.state is SandboxState.RUNNING)
    assert copies(replicas) == [(AWAY, "running", 2)]
    assert await committed_mib(observer) == 1024


async def test_a_place_is_refused_with_reasons_and_changes_nothing(replicas: Any) -> None:
    observer, sandbox = await a_running(replicas, accelerator="kvm")
    async with replicas.replica("replica-1") as fleet:
        for target in (AWAY, None):
            with pytest.raises(TargetUnavailable, match="wk-two cannot load what was saved under tcg"):
                await migrate(fleet, sandbox, target)
        with pytest.raises(BadRequest, match="on that worker already"):
            await migrate(fleet, sandbox, HOME)
        with pytest.raises(NotFound):
            await migrate(fleet, sandbox, WorkerId("wk-none"))
    assert await observer.stores.sandboxes.get_any(sandbox.id) == sandbox
    assert await committed_mib(observer) == 1024


async def test_a_full_target_is_refused_and_a_reserved_place_counts(replicas: Any) -> None:
    observer, sandbox = await a_running(replicas, total=resources(1024, cpu_count=8, disk_mib=10**7))
    wire = Tripwire(1, "before")
    plane = wire.around(replicas.plane("replica-1"), looks_up=False)
    async with replicas.replica("replica-1", plane=plane) as slow, replicas.replica("replica-2") as other:
        await migrate(slow, sandbox)
        await asyncio.wait_for(wire.hung.wait(), 10)
        workers = {one.id: one.committed.memory_mib for one in await observer.stores.workers.list()}
        assert workers == {HOME: 1024, AWAY: 1024}
        presence = await observer.stores.sandboxes.presence(AWAY)
        assert [(one.sandbox_id, one.has_reservation) for one in presence] == [(sandbox.id, True)]
        await other.create(an_order("sb-two"))
        second = await until(observer, lambda row: row.state is SandboxState.RUNNING, "sb-two")
        with pytest.raises(TargetUnavailable, match="short of memory: 0 free, 1024 wanted"):
            await other.migrate(second, target=AWAY, operation_id="op-second", actor="test")
        wire.may_go_on.set()
        await until(observer, lambda row: row.state is SandboxState.RUNNING)


async def _lost_for_good(observer: Any, worker: WorkerId) -> None:
    await observer.stores.terms.raise_term("test")
    await observer.stores.workers.mark_absent(WorkerState.SILENT, silent_for=timedelta(0), term=1)
    await observer.stores.workers.forget(worker, is_lost=True, actor="operator")


@pytest.mark.parametrize("was_sent", [True, False])
async def test_what_a_host_sent_before_it_was_lost_is_run(replicas: Any, was_sent: bool) -> None:
    observer, sandbox = await a_running(replicas)
    wire = Tripwire(5, "after" if was_sent else "before")  # the call by which the source is told to send
    plane = wire.around(replicas.plane("replica-1"), looks_up=False)
    async with replicas.replica("replica-1", plane=plane) as fleet:
        await migrate(fleet, sandbox)
        await asyncio.wait_for(wire.hung.wait(), 10)
        await _lost_for_good(observer, HOME)
        replicas.workers.host(HOME).is_unreachable = True
        if not was_sent:
            replicas.workers.host(HOME).vms.clear()
        wire.may_go_on.set()
        after = await until(observer, lambda row: row.state is SandboxState.RUNNING)
    assert (after.worker_id, after.epoch) == ((AWAY, 2) if was_sent else (HOME, 1))
    assert [name for name, _, _ in copies(replicas) if name == AWAY] == ([AWAY] if was_sent else [])
    assert replicas.movers.violations == []


async def test_a_target_that_is_lost_for_good_holds_nothing_up(replicas: Any) -> None:
    observer, sandbox = await a_running(replicas)
    wire = Tripwire(7, "before")  # the target is asked whether it could run it
    plane = wire.around(replicas.plane("replica-1"), looks_up=False)
    async with replicas.replica("replica-1", plane=plane) as fleet:
        await migrate(fleet, sandbox)
        await asyncio.wait_for(wire.hung.wait(), 10)
        await _lost_for_good(observer, AWAY)
        replicas.workers.host(AWAY).is_unreachable = True
        wire.may_go_on.set()
        after = await until(observer, lambda row: row.state is SandboxState.RUNNING)
    assert (after.worker_id, after.epoch) == (HOME, 1)
    assert copies(replicas) == [(HOME, "running", 1)]
    assert await committed_mib(observer) == 1024


@pytest.mark.parametrize("is_gone", [True, False])
async def test_what_was_torn_apart_ends_whether_its_target_is_gone_or_silent(
    replicas: Any, is_gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory followed its guest, and the target is lost: neither side can run it, and that is told."""
    monkeypatch.setattr(migrate_operation, "SILENT_ATTEMPTS", 2)
    replicas.settings["move_may_post_copy"] = True
    observer, sandbox = await a_running(replicas)
    replicas.movers.ends_with, replicas.movers.is_torn = UNDECIDED, True
    wire = Tripwire(6, "before")  # the source is asked again how it stands
    plane = wire.around(replicas.plane("replica-1"), looks_up=False)
    async with replicas.replica("replica-1", plane=plane) as fleet:
        await migrate(fleet, sandbox)
        await asyncio.wait_for(wire.hung.wait(), 10)
        if is_gone:
            await _lost_for_good(observer, AWAY)
        replicas.workers.host(AWAY).is_unreachable = True
        wire.may_go_on.set()
        await fleet.engine.wait_for(OperationId("op-move"), timeout_s=20)
        replicas.workers.host(AWAY).is_unreachable = False  # until then its place is not given back
        after = await until(observer, lambda row: row.state is SandboxState.RUNNING)
    assert (after.worker_id, after.epoch) == (HOME, 1)
    assert [one for one in copies(replicas) if one[0] == HOME] == []  # so whoever looks for losses finds it
    assert replicas.movers.violations == []


ARRIVE = 9
"""The call by which the target is told to run what was committed to it."""


def _begun_away(replicas: Any, sandbox: Sandbox, state: str) -> None:
    """Have the target hold a machine of the committed epoch in that state."""
    vm = replicas.workers.host(HOME).vms[sandbox.id]
    replicas.workers.host(AWAY).vms[sandbox.id] = msgspec.structs.replace(
        vm, epoch=2, state=state, reason="QEMU has ended"
    )


@pytest.mark.parametrize("way", ["its machine died", "it knows of none", "its host was lost"])
async def test_what_the_target_lost_after_the_commit_goes_on_at_its_source(replicas: Any, way: str) -> None:
    observer, sandbox = await a_running(replicas)
    wire = Tripwire(ARRIVE, "before")
    plane = wire.around(replicas.plane("replica-1"), looks_up=False)
    async with replicas.replica("replica-1", plane=plane) as fleet:
        await migrate(fleet, sandbox)
        await asyncio.wait_for(wire.hung.wait(), 10)
        row = await observer.stores.sandboxes.get_any(sandbox.id)
        assert (row.state, row.worker_id, row.epoch) == (SandboxState.MIGRATING, AWAY, 2)
        if way == "its machine died":
            _begun_away(replicas, sandbox, "dead")
        else:
            replicas.movers.places.clear()
        if way == "its host was lost":
            await _lost_for_good(observer, AWAY)
            replicas.workers.host(AWAY).is_unreachable = True
        wire.may_go_on.set()
        ended = await fleet.engine.wait_for(OperationId("op-move"), timeout_s=20)
        after = await until(observer, lambda row: row.state is SandboxState.RUNNING)
        await until(observer, lambda _row: AWAY not in [name for name, _, _ in copies(replicas)])
    assert (ended.state, after.worker_id, after.epoch) == (OperationState.FAILED, HOME, 3)
    assert copies(replicas) == [(HOME, "running", 3)]
    assert replicas.movers.violations == []
    assert await committed_mib(observer) == 1024
    log = await observer.stores.sandboxes.transitions(ORGANISATION, sandbox.id)
    assert [one.event for one in log][:3] == ["migrate_failed", "recalled", "moved"]


@pytest.mark.parametrize("number", [ARRIVE + 1, ARRIVE + 2, ARRIVE + 3])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_recall_survives_the_death_of_its_replica(replicas: Any, number: int, when: str) -> None:
    observer, sandbox = await a_running(replicas)
    first, second = Tripwire(ARRIVE, "before"), Tripwire(number, when)
    plane = second.around(first.around(replicas.plane("replica-1"), looks_up=False), looks_up=False)
    async with replicas.replica("replica-1", plane=plane) as fleet:
        await migrate(fleet, sandbox)
        await asyncio.wait_for(first.hung.wait(), 10)
        _begun_away(replicas, sandbox, "dead")
        first.may_go_on.set()
        await asyncio.wait_for(second.hung.wait(), 10)
    await crash(replicas, observer)
    async with replicas.replica("replica-2") as fleet:
        await takeover.tick(fleet.engine._plane, fleet.engine)
        after = await until(observer, lambda row: row.state is SandboxState.RUNNING)
        await until(observer, lambda _row: copies(replicas) == [(HOME, "running", 3)])
    assert (after.worker_id, after.epoch) == (HOME, 3)
    assert replicas.movers.violations == []
    assert await committed_mib(observer) == 1024


async def test_what_neither_side_has_is_lost(replicas: Any) -> None:
    observer, sandbox = await a_running(replicas)
    wire = Tripwire(ARRIVE, "before")
    plane = wire.around(replicas.plane("replica-1"), looks_up=False)
    async with replicas.replica("replica-1", plane=plane) as fleet:
        await migrate(fleet, sandbox)
        await asyncio.wait_for(wire.hung.wait(), 10)
        replicas.movers.places.clear()
        replicas.workers.host(HOME).vms.clear()
        wire.may_go_on.set()
        ended = await fleet.engine.wait_for(OperationId("op-move"), timeout_s=20)
    row = await observer.stores.sandboxes.get_any(sandbox.id)
    assert (ended.state, row.worker_id, row.epoch) == (OperationState.FAILED, AWAY, 2)
