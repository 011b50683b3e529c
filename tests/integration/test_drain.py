"""Drains on real stores and workers in memory: all leave, what stays says why, and a new leader goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.integration.crashing import an_order, committed_mib, prepare, until
from tests.integration.saved import STORE, ids

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.loops import takeover
from sandfleet.controlplane.loops.drain import DrainLoop
from sandfleet.controlplane.operations.fleet import Fleet
from sandfleet.model.checkpoint import CheckpointState
from sandfleet.model.drain import Drain, DrainOwner, DrainState, DrainTerms, StayReason
from sandfleet.model.errors import HypervisorFailed, StaleTerm
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.snapshot import SnapshotState
from sandfleet.model.worker import WorkerState
from sandfleet.planning.fleet import DrainWorker
from sandfleet.planning.rollout_state import RolloutStage
from sandfleet.ports.fleet_store import FleetDecision
from sandfleet.testing.builders import a_worker, resources
from sandfleet.wire.move_messages import FAILED

pytestmark = pytest.mark.timeout(180)
HOME, AWAY = WorkerId("wk-one"), WorkerId("wk-two")


async def some_running(replicas: Any, *names: str, away_mib: int = 16384) -> ControlPlane:
    """Return an observer of a fleet whose sandboxes all run on one of two workers."""
    observer = await prepare(replicas)
    async with replicas.replica("replica-0") as fleet:
        for name in names:
            await fleet.create(an_order(name))
            await until(observer, lambda row: row.state is SandboxState.RUNNING, name)
    total = resources(away_mib, cpu_count=8, disk_mib=10**7)
    await observer.stores.workers.register(a_worker(AWAY, total=total))
    return observer


async def until_seen(
    observer: ControlPlane, fleet: Fleet, holds: Callable[[Drain], bool], *, term: int | None = None
) -> Drain:
    """Tick the loop as a leader does until what it writes down is so."""
    loop = DrainLoop(fleet.engine._plane, fleet.engine.start)
    term = await observer.stores.terms.current_term() if term is None else term
    for _ in range(500):
        await loop.tick(term=term)
        drain = await observer.stores.drains.get(HOME)
        assert drain is not None
        if holds(drain):
            return drain
        await asyncio.sleep(0.02)
    raise AssertionError(f"after 10 s the drain is {drain}")


def is_drained(drain: Drain) -> bool:
    return drain.state is DrainState.DRAINED


async def rows(observer: ControlPlane, *names: str) -> list[Sandbox]:
    return [await observer.stores.sandboxes.get_any(SandboxId(name)) for name in names]


def running_at(replicas: Any, worker: str) -> list[str]:
    return sorted(name for name, vm in replicas.workers.host(worker).vms.items() if vm.state == "running")


async def test_all_leave_and_the_worker_is_drained_when_nothing_is_left(replicas: Any) -> None:
    names = ("sb-a", "sb-b", "sb-c")
    observer = await some_running(replicas, *names)
    await observer.stores.drains.begin(HOME, actor="test")
    async with replicas.replica("replica-1") as fleet:
        first = await until_seen(observer, fleet, lambda drain: bool(drain.stays))
        assert [stay.reason for stay in first.stays].count(StayReason.MOVING) == 2  # as the setting says
        done = await until_seen(observer, fleet, is_drained)
    assert (done.moved, done.stays) == (3, ())
    assert done.drained_at is not None
    assert running_at(replicas, AWAY) == list(names)
    assert replicas.workers.host(HOME).vms == {}
    assert [(row.worker_id, row.epoch) for row in await rows(observer, *names)] == [(AWAY, 2)] * 3
    assert await committed_mib(observer) == 3 * 1024
    assert replicas.movers.violations == []


async def test_a_new_leader_goes_on_and_the_old_one_begins_nothing_more(replicas: Any) -> None:
    names = ("sb-a", "sb-b", "sb-c")
    observer = await some_running(replicas, *names)
    await observer.stores.drains.begin(HOME, actor="test")
    old = await observer.stores.terms.raise_term("replica-1")
    async with replicas.replica("replica-1") as one:
        await DrainLoop(one.engine._plane, one.engine.start).tick(term=old)
        await observer.stores.terms.raise_term("replica-2")
        with pytest.raises(StaleTerm):
            await until_seen(observer, one, is_drained, term=old)
    async with replicas.replica("replica-2") as two:
        await takeover.tick(two.engine._plane, two.engine)
        done = await until_seen(observer, two, is_drained)
    assert done.moved == 3
    assert running_at(replicas, AWAY) == list(names)


async def test_nothing_new_comes_and_after_the_drain_is_undone_it_does(replicas: Any) -> None:
    observer = await some_running(replicas, "sb-a", away_mib=1024)
    await observer.stores.drains.begin(HOME, actor="test")
    hurried = replicas.plane("replica-1", creation_queue_s=0.3)
    async with replicas.replica("replica-1", plane=hurried) as fleet:
        await until_seen(observer, fleet, is_drained)
        await fleet.create(an_order("sb-b"))
        refused = await until(observer, lambda row: row.is_terminal, "sb-b")
        assert refused.state is SandboxState.FAILED
        await observer.stores.drains.end(HOME, actor="test")
        await fleet.create(an_order("sb-c"))
        placed = await until(observer, lambda row: row.state is SandboxState.RUNNING, "sb-c")
    assert placed.worker_id == HOME


async def test_one_without_room_is_told_why_and_goes_when_there_is(replicas: Any) -> None:
    observer = await some_running(replicas, "sb-a", "sb-b", away_mib=1024)
    await observer.stores.drains.begin(HOME, actor="test")
    async with replicas.replica("replica-1") as fleet:
        held = await until_seen(observer, fleet, lambda drain: drain.moved == 1 and len(drain.stays) == 1)
        (stay,) = held.stays
        assert (stay.sandbox_id, stay.reason) == ("sb-b", StayReason.HELD)
        assert "wk-two short of memory: 0 free, 1024 wanted" in stay.said
        await observer.stores.workers.register(a_worker("wk-three"))
        await until_seen(observer, fleet, is_drained)
    assert [row.worker_id for row in await rows(observer, "sb-a", "sb-b")] == [AWAY, "wk-three"]


def has_failed(drain: Drain) -> bool:
    """Whether a move has failed and the next has not begun: it may begin at the same look."""
    return any(stay.attempts and stay.reason is StayReason.HELD for stay in drain.stays)


async def test_a_move_that_fails_is_told_and_tried_again_elsewhere(
    replicas: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not before there is elsewhere: how fast this machine is decides nothing.
    monkeypatch.setattr("sandfleet.planning.draining.RETRY_S", 300.0)
    observer = await some_running(replicas, "sb-a", away_mib=2048)
    replicas.movers.ends_with = FAILED
    await observer.stores.drains.begin(HOME, actor="test")
    async with replicas.replica("replica-1") as fleet:
        failed = await until_seen(observer, fleet, has_failed)
        (stay,) = failed.stays
        assert (stay.reason, stay.target) == (StayReason.HELD, AWAY)
        assert stay.said.startswith("its move to wk-two failed: ")
        assert running_at(replicas, HOME) == ["sb-a"]
        assert stay.retry_at is not None
        replicas.movers.ends_with = "ready"
        await observer.stores.workers.register(a_worker("wk-three"))
        its_time_has_come = replace(failed, stays=(replace(stay, retry_at=None),))
        term = await observer.stores.terms.current_term()
        assert await observer.stores.drains.save(its_time_has_come, term=term)
        await until_seen(observer, fleet, is_drained)
    assert [row.worker_id for row in await rows(observer, "sb-a")] == ["wk-three"]
    assert replicas.movers.violations == []


async def test_a_sandbox_that_sleeps_holds_up_nothing_once_that_is_safe(replicas: Any) -> None:
    replicas.settings["blob_store_url"] = STORE
    observer = await some_running(replicas, "sb-a")
    async with replicas.replica("replica-1") as fleet:
        (row,) = await rows(observer, "sb-a")
        await fleet.hibernate(row, ids=ids("first"), actor="test")
        await until(observer, lambda row: row.state is SandboxState.HIBERNATED, "sb-a")
        await observer.stores.drains.begin(HOME, actor="test")
        done = await until_seen(observer, fleet, is_drained)
    assert (done.moved, done.stays) == (0, ())


async def test_of_a_worker_that_is_silent_nothing_is_moved_until_it_speaks(replicas: Any) -> None:
    observer = await some_running(replicas, "sb-a")
    term = await observer.stores.terms.raise_term("leader")
    await observer.stores.workers.mark_absent(
        WorkerState.SILENT, silent_for=timedelta(seconds=-60), term=term
    )
    await observer.stores.drains.begin(HOME, actor="test")
    async with replicas.replica("replica-1") as fleet:
        held = await until_seen(observer, fleet, lambda drain: bool(drain.stays))
        assert [(stay.reason, stay.said) for stay in held.stays] == [(StayReason.HELD, "wk-one is silent")]
        for name in (HOME, AWAY):
            total = resources(16384, cpu_count=8, disk_mib=10**7)
            await observer.stores.workers.register(a_worker(name, total=total, sequence=2))
        await until_seen(observer, fleet, is_drained)


async def test_what_refuses_a_move_at_the_last_moment_is_told(
    replicas: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    observer = await some_running(replicas, "sb-a")
    await observer.stores.drains.begin(HOME, actor="test")
    async with replicas.replica("replica-1") as fleet:

        async def refusing(*given: Any, **named: Any) -> Any:
            raise HypervisorFailed("not just now")

        with monkeypatch.context() as patch:
            patch.setattr("sandfleet.controlplane.loops.drain.begin_migrate", refusing)
            held = await until_seen(observer, fleet, lambda drain: bool(drain.stays))
        assert [(stay.reason, stay.said) for stay in held.stays] == [(StayReason.WAITING, "not just now")]
        await until_seen(observer, fleet, is_drained)


async def test_what_a_roll_out_drains_waits_for_a_worker_of_its_version(replicas: Any) -> None:
    observer = await some_running(replicas, "sb-a")
    stores = observer.stores
    await stores.rollouts.begin("2", "1", actor="test", at=observer.clock.now())
    async with replicas.replica("replica-1") as fleet:
        term = await stores.terms.current_term()
        drain = DrainWorker(HOME, DrainOwner.ROLLOUT, "it runs another version")
        assert await stores.fleet.record(FleetDecision(DrainOwner.ROLLOUT, [drain]), term=term) == []
        held = await until_seen(observer, fleet, lambda drain: bool(drain.stays), term=term)
        assert [stay.reason for stay in held.stays] == [StayReason.HELD]
        assert "wk-two runs version unknown" in held.stays[0].said
        await stores.workers.register(a_worker("wk-three", worker_version="2"))
        # That it is under test keeps everything out, this as well.
        assert (await stores.workers.get(WorkerId("wk-three"))).cordoned
        begun = await stores.rollouts.current()
        assert begun is not None
        passed = replace(begun.rollout, stage=RolloutStage.FLEET)
        after = begun.after(passed, actor="test")
        await stores.fleet.record(FleetDecision(DrainOwner.ROLLOUT, rollout=after), term=term)
        await until_seen(observer, fleet, is_drained, term=term)
    (moved,) = await rows(observer, "sb-a")
    assert moved.worker_id == "wk-three"


AT_ONCE = DrainTerms("the host ends", 0)


def is_stuck(drain: Drain) -> bool:
    return drain.state is DrainState.STUCK


async def events_of(observer: ControlPlane, name: str) -> list[tuple[str, str, str]]:
    organisation = (await rows(observer, name))[0].organisation_id
    log = await observer.stores.sandboxes.transitions(organisation, SandboxId(name))
    return [(one.event, one.actor, one.reason) for one in log]


async def test_what_nobody_can_take_is_put_to_sleep_durably_before_the_worker_is_drained(
    replicas: Any,
) -> None:
    replicas.settings["blob_store_url"] = STORE
    observer = await some_running(replicas, "sb-a", "sb-b", away_mib=1024)
    await observer.stores.drains.begin(HOME, actor="test", terms=AT_ONCE)
    async with replicas.replica("replica-1") as fleet:
        done = await until_seen(observer, fleet, is_drained)
    assert (done.moved, done.slept, done.stays) == (1, 1, ())
    moved, slept = await rows(observer, "sb-a", "sb-b")
    assert (moved.state, moved.worker_id) == (SandboxState.RUNNING, AWAY)
    assert (slept.state, slept.worker_id) == (SandboxState.HIBERNATED, None)
    assert slept.snapshot_id is not None
    assert (await observer.stores.snapshots.get(slept.snapshot_id)).state is SnapshotState.DURABLE
    (why,) = [why for event, actor, why in await events_of(observer, "sb-b") if actor == "drain"]
    assert why.startswith("wk-one is drained (the host ends): nobody can take it: wk-two short of memory")


async def test_a_worker_whose_saved_states_are_only_there_is_not_drained(replicas: Any) -> None:
    """Without an object store that is for ever: it is stuck, and says so."""
    observer = await some_running(replicas, "sb-a")
    async with replicas.replica("replica-1") as fleet:
        (row,) = await rows(observer, "sb-a")
        await fleet.hibernate(row, ids=ids("first"), actor="test")
        await until(observer, lambda row: row.state is SandboxState.HIBERNATED, "sb-a")
        await observer.stores.drains.begin(HOME, actor="test", terms=AT_ONCE)
        stuck = await until_seen(observer, fleet, is_stuck)
    assert [(stay.sandbox_id, stay.reason) for stay in stuck.stays] == [("sb-a", StayReason.HELD)]


@pytest.mark.parametrize(
    ("store", "terms", "because"),
    [
        (None, AT_ONCE, "there is no object store"),
        (STORE, replace(AT_ONCE, hibernates=False), "its drain does not ask for that"),
    ],
)
async def test_what_can_neither_move_nor_sleep_runs_on_and_the_drain_is_stuck(
    replicas: Any, store: str | None, terms: DrainTerms, because: str
) -> None:
    replicas.settings["blob_store_url"] = store
    observer = await some_running(replicas, "sb-a", away_mib=512)
    await observer.stores.drains.begin(HOME, actor="test", terms=terms)
    async with replicas.replica("replica-1") as fleet:
        stuck = await until_seen(observer, fleet, is_stuck)
        assert stuck.stuck_at is not None
        (stay,) = stuck.stays
        assert stay.reason is StayReason.HELD
        assert because in stay.said
        assert running_at(replicas, HOME) == ["sb-a"]
        await observer.stores.workers.register(a_worker("wk-three"))
        done = await until_seen(observer, fleet, is_drained)
    assert (done.moved, done.stuck_at) == (1, None)


async def test_what_would_not_sleep_before_its_host_ends_is_kept_and_comes_back_when_the_host_is_gone(
    replicas: Any,
) -> None:
    """A checkpoint is taken while it runs on, and nobody has to ask for what follows."""
    replicas.settings["blob_store_url"] = STORE
    observer = await some_running(replicas, "sb-a", away_mib=512)
    stores = observer.stores
    term = await stores.terms.raise_term("replica-1")
    notice = DrainWorker(HOME, DrainOwner.NOTICE, "its host ends", deadline_s=2)
    await stores.fleet.record(FleetDecision(DrainOwner.NOTICE, [notice]), term=term)

    def is_kept(drain: Drain) -> bool:
        return any(stay.kept_at and "comes back from" in stay.said for stay in drain.stays)

    async with replicas.replica("replica-1") as fleet:
        await until_seen(observer, fleet, is_kept, term=term)
        (row,) = await rows(observer, "sb-a")
        assert (row.state, row.worker_id) == (SandboxState.RUNNING, HOME)
        (kept,) = await stores.checkpoints.list(row.organisation_id, row.id)
        assert kept.name.startswith("before-its-host-ends-")
        assert kept.state is CheckpointState.READY
        await stores.workers.mark_absent(
            WorkerState.UNREACHABLE, silent_for=timedelta(seconds=-60), term=term
        )
        assert await stores.fleet.lose(HOME, because="its machine is gone", term=term)
        await stores.workers.register(
            a_worker("wk-three", total=resources(4096, cpu_count=8, disk_mib=10**7))
        )
        await fleet.reconciler.tick(term=term)
        again = await until(observer, lambda row: row.state is SandboxState.RUNNING, "sb-a")
    assert (again.worker_id, again.snapshot_id) == ("wk-three", kept.snapshot_id)


async def test_a_round_reads_as_often_for_many_as_for_one(replicas: Any) -> None:
    observer = await some_running(replicas, "sb-a", "sb-b", "sb-c", away_mib=512)
    await observer.stores.drains.begin(HOME, actor="test")
    term = await observer.stores.terms.raise_term("leader")
    async with replicas.replica("replica-1") as fleet:
        plane, calls = fleet.engine._plane, []
        store = plane.stores.operations

        class Counted:
            def __getattr__(self, name: str) -> Any:
                calls.append(name)
                return getattr(store, name)

        counted = replace(plane, stores=replace(plane.stores, operations=Counted()))
        await DrainLoop(counted, fleet.engine.start).tick(term=term)
    assert sorted(calls) == ["find", "open_for_all"]
