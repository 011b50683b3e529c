"""The loops of a replica against real stores: expiry, liveness, reconciliation, leadership."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.integration import crashing

from sandfleet.controlplane.dependencies import ControlPlane, CreateOrder
from sandfleet.controlplane.heartbeats import record_heartbeat
from sandfleet.controlplane.loops import cleanup, expiry, liveness, takeover
from sandfleet.controlplane.loops.leadership import MARGIN_RATIO, Leadership
from sandfleet.controlplane.loops.runner import FOLLOWING, Loop, LoopRunner
from sandfleet.controlplane.operations.fleet import Fleet
from sandfleet.model.errors import StaleTerm, StoreUnavailable
from sandfleet.model.ids import OperationId, SandboxId, WorkerId
from sandfleet.model.sandbox import Sandbox, SandboxState, StopReason
from sandfleet.model.worker import WorkerState
from sandfleet.testing.builders import NOON, ORGANISATION, a_worker, an_organisation, resources
from sandfleet.testing.clock import JumpingClock
from sandfleet.wire.worker_messages import Heartbeat, VmStatus

pytestmark = pytest.mark.timeout(240)
LONG_AGO = NOON - timedelta(days=20000)


@pytest.fixture
async def plane(replicas: Any) -> ControlPlane:
    """One replica's parts, with a tenant, a worker and a term."""
    plane: ControlPlane = replicas.plane("replica-1")
    await plane.stores.organisations.create(an_organisation())
    await plane.stores.workers.register(a_worker())
    await plane.stores.terms.raise_term("replica-1")
    return plane


async def running_sandbox(plane: ControlPlane, fleet: Fleet, name: str = "sb-one", **changes: Any) -> Sandbox:
    """Create one and wait until it runs."""
    order = CreateOrder(
        sandbox_id=SandboxId(name),
        operation_id=OperationId(f"op-{name}"),
        organisation_id=ORGANISATION,
        resources=resources(),
        template="base",
        region="local",
        actor="test",
        **changes,
    )
    await fleet.create(order)
    return await until(plane, SandboxState.RUNNING, name)


async def until(plane: ControlPlane, state: SandboxState, name: str = "sb-one") -> Sandbox:
    """Return the row in that state with nothing under way."""
    return await crashing.until(plane, lambda row: row.state is state, name)


async def make_idle(plane: ControlPlane, sandbox: Sandbox) -> None:
    """Let the row say that nothing has happened since long ago."""
    database: Any = plane.stores.sandboxes
    await database._database.statement(
        lambda connection: connection.exec_driver_sql(
            f"UPDATE sandboxes SET active_at = now() - interval '1 hour' WHERE id = '{sandbox.id}'"
        )
    )


async def test_an_idle_sandbox_expires_and_frees_its_place(replicas: Any, plane: ControlPlane) -> None:
    async with replicas.replica("replica-1", plane=plane) as fleet:
        sandbox = await running_sandbox(plane, fleet, timeout_s=60)
        assert await expiry.tick(plane, fleet.engine, term=1) == "nothing is idle"
        await make_idle(plane, sandbox)
        assert "1 of 1" in await expiry.tick(plane, fleet.engine, term=1)
        ended = await until(plane, SandboxState.STOPPED)
    assert (ended.stop_reason, ended.worker_id) == (StopReason.EXPIRED, None)
    assert replicas.workers.host("wk-one").vms == {}
    assert (await plane.stores.workers.get(WorkerId("wk-one"))).committed.memory_mib == 0
    log = await plane.stores.sandboxes.transitions(ORGANISATION, sandbox.id)
    assert [row.event for row in log[:2]] == ["expired", "idle_expired"]


async def test_a_busy_sandbox_goes_back_to_running(replicas: Any, plane: ControlPlane) -> None:
    host = replicas.workers.host("wk-one")
    async with replicas.replica("replica-1", plane=plane) as fleet:
        sandbox = await running_sandbox(plane, fleet, timeout_s=60)
        host.busy.add(sandbox.id)
        await make_idle(plane, sandbox)
        await expiry.tick(plane, fleet.engine, term=1)
        again = await until(plane, SandboxState.RUNNING)
        assert await expiry.tick(plane, fleet.engine, term=1) == "nothing is idle"
    assert again.version > sandbox.version
    assert sandbox.id in host.vms


async def test_a_kill_wins_against_an_expiry(replicas: Any, plane: ControlPlane) -> None:
    host = replicas.workers.host("wk-one")
    async with replicas.replica("replica-1", plane=plane) as fleet:
        sandbox = await running_sandbox(plane, fleet, timeout_s=60)
        await make_idle(plane, sandbox)
        host.is_unreachable = True
        await expiry.tick(plane, fleet.engine, term=1)
        hibernating = await plane.stores.sandboxes.get_any(sandbox.id)
        assert hibernating.state is SandboxState.HIBERNATING
        await fleet.kill(hibernating, actor="test")
        host.is_unreachable = False
        ended = await until(plane, SandboxState.STOPPED)
    assert ended.stop_reason is StopReason.USER_REQUESTED
    assert host.vms == {}


async def test_an_old_leader_expires_nothing(replicas: Any, plane: ControlPlane) -> None:
    async with replicas.replica("replica-1", plane=plane) as fleet:
        sandbox = await running_sandbox(plane, fleet, timeout_s=60)
        await make_idle(plane, sandbox)
        await plane.stores.terms.raise_term("another")
        with pytest.raises(StaleTerm):
            await expiry.tick(plane, fleet.engine, term=1)
    assert (await plane.stores.sandboxes.get_any(sandbox.id)).state is SandboxState.RUNNING


async def test_silence_marks_the_worker_and_says_nothing_of_its_sandboxes(
    replicas: Any, plane: ControlPlane
) -> None:
    async with replicas.replica("replica-1", plane=plane) as fleet:
        await running_sandbox(plane, fleet)
        assert await liveness.tick(plane, term=1) == "every worker is heard"
        for change, said in (
            ({"worker_silent_s": 0.0}, "silent after 0 s: wk-one"),
            ({"worker_unreachable_s": 0.0}, "unreachable after 0 s: wk-one"),
        ):
            quick = replace(plane, settings=plane.settings.model_copy(update=change))
            assert await liveness.tick(quick, term=1) == said
        for _ in range(3):
            await fleet.reconciler.tick(term=1)
    assert (await plane.stores.workers.get(WorkerId("wk-one"))).state is WorkerState.UNREACHABLE
    assert (await plane.stores.sandboxes.get_any(SandboxId("sb-one"))).state is SandboxState.RUNNING


async def test_what_ran_on_a_host_that_is_no_more_ends_and_frees_its_room(
    replicas: Any, plane: ControlPlane
) -> None:
    """On somebody's word alone: its worker is not asked, because it would never answer."""
    async with replicas.replica("replica-1", plane=plane) as fleet:
        await running_sandbox(plane, fleet)
        await plane.stores.workers.mark_absent(WorkerState.SILENT, silent_for=timedelta(0), term=1)
        replicas.workers.host("wk-one").is_unreachable = True
        await fleet.reconciler.tick(term=1)
        assert (await plane.stores.sandboxes.get_any(SandboxId("sb-one"))).state is SandboxState.RUNNING
        await plane.stores.workers.forget(WorkerId("wk-one"), is_lost=True, actor="operator")
        assert "sb-one was lost" in await fleet.reconciler.tick(term=1)
        lost = await until(plane, SandboxState.ERROR)
    assert lost.error_message == "the host of worker wk-one was lost"
    worker = await plane.stores.workers.get(WorkerId("wk-one"))
    assert (worker.state, worker.committed.memory_mib) == (WorkerState.GONE, 0)


async def test_a_lost_worker_that_speaks_again_is_told_what_is_over(
    replicas: Any, plane: ControlPlane
) -> None:
    """It is told by epochs: what the row still says to be its own is not over."""
    async with replicas.replica("replica-1", plane=plane) as fleet:
        sandbox = await running_sandbox(plane, fleet)
        vms = [VmStatus(sandbox_id=name, epoch=1, state="running") for name in (sandbox.id, "sb-unknown")]
        heard = await record_heartbeat(plane, a_heartbeat(sequence=2, vms=vms))
        assert (heard.gone, heard.cordoned, heard.over) == (False, False, {})
        await plane.stores.workers.mark_absent(WorkerState.SILENT, silent_for=timedelta(0), term=1)
        await plane.stores.workers.forget(WorkerId("wk-one"), is_lost=True, actor="operator")
        heard = await record_heartbeat(plane, a_heartbeat(sequence=3, vms=vms))
        assert (heard.gone, heard.cordoned, heard.over) == (True, True, {sandbox.id: sandbox.epoch - 1})
        await fleet.reconciler.tick(term=1)
        lost = await until(plane, SandboxState.ERROR)
    heard = await record_heartbeat(plane, a_heartbeat(sequence=4, vms=vms))
    assert heard.over == {sandbox.id: lost.epoch}
    assert lost.epoch > sandbox.epoch
    assert (await record_heartbeat(plane, a_heartbeat(sequence=5))).over == {}


async def test_a_running_row_without_a_machine_is_lost_after_the_second_look(
    replicas: Any, plane: ControlPlane
) -> None:
    host = replicas.workers.host("wk-one")
    async with replicas.replica("replica-1", plane=plane) as fleet:
        sandbox = await running_sandbox(plane, fleet)
        host.vms.clear()
        assert await fleet.reconciler.tick(term=1) == "rows and machines agree"
        host.is_unreachable = True  # not an answer, so it is no second look either
        await fleet.reconciler.tick(term=1)
        host.is_unreachable = False
        assert await fleet.reconciler.tick(term=1) == "rows and machines agree"
        assert "was lost" in await fleet.reconciler.tick(term=1)
        lost = await until(plane, SandboxState.ERROR)
    assert (lost.stop_reason, lost.epoch) == (StopReason.CRASH, sandbox.epoch + 1)
    assert lost.error_message == "its worker has no such machine any more"
    assert (await plane.stores.workers.get(WorkerId("wk-one"))).committed.memory_mib == 0


async def test_a_dead_machine_is_cleaned_up_and_its_reason_kept(replicas: Any, plane: ControlPlane) -> None:
    host = replicas.workers.host("wk-one")
    async with replicas.replica("replica-1", plane=plane) as fleet:
        sandbox = await running_sandbox(plane, fleet)
        host.vms[sandbox.id] = VmStatus(sandbox_id=sandbox.id, epoch=1, state="dead", reason="out of memory")
        await fleet.reconciler.tick(term=1)
        await fleet.reconciler.tick(term=1)
        lost = await until(plane, SandboxState.ERROR)
    assert lost.error_message == "out of memory"
    assert host.vms == {}


async def test_a_machine_that_came_back_is_not_lost(replicas: Any, plane: ControlPlane) -> None:
    host = replicas.workers.host("wk-one")
    async with replicas.replica("replica-1", plane=plane) as fleet:
        sandbox = await running_sandbox(plane, fleet)
        machines = dict(host.vms)
        for _ in range(3):
            host.vms.clear()
            await fleet.reconciler.tick(term=1)
            host.vms.update(machines)
            await fleet.reconciler.tick(term=1)
    assert (await plane.stores.sandboxes.get_any(sandbox.id)).state is SandboxState.RUNNING


async def test_a_machine_nobody_owns_is_quarantined_after_the_second_look(
    replicas: Any, plane: ControlPlane
) -> None:
    host = replicas.workers.host("wk-one")
    stray = SandboxId("sb-stray")
    async with replicas.replica("replica-1", plane=plane) as fleet:
        owned = await running_sandbox(plane, fleet)
        host.vms[stray] = VmStatus(sandbox_id=stray, epoch=1, state="running")
        await fleet.reconciler.tick(term=1)
        assert (await record_heartbeat(plane, a_heartbeat(sequence=2))).quarantined == []
        assert "sb-stray" in await fleet.reconciler.tick(term=1)
        assert (await record_heartbeat(plane, a_heartbeat(sequence=3))).quarantined == [stray]
        del host.vms[stray]
        await fleet.reconciler.tick(term=1)
    answer = await record_heartbeat(plane, a_heartbeat(sequence=4))
    assert (answer.quarantined, answer.term) == ([], 1)
    assert owned.id in host.vms


def a_heartbeat(*, sequence: int, vms: list[VmStatus] | None = None, stopping: bool = False) -> Heartbeat:
    return Heartbeat(
        worker_id="wk-one",
        instance_id="process-1",
        sequence=sequence,
        machine_id="machine-1",
        region="local",
        http_url="http://wk-one:9000",
        worker_version="1",
        accelerator="tcg",
        cpu_model="max",
        templates={"base": "digest-1"},
        total_memory_mib=16384,
        total_cpu=8,
        total_disk_mib=10**6,
        memory_used_mib=1,
        cpu_percent=0.5,
        disk_used_mib=1,
        stopping=stopping,
        vms=vms,
    )


async def test_heartbeats_keep_active_sandboxes_from_expiring(replicas: Any, plane: ControlPlane) -> None:
    async with replicas.replica("replica-1", plane=plane) as fleet:
        sandbox = await running_sandbox(plane, fleet, timeout_s=60)
        await make_idle(plane, sandbox)
        vm = VmStatus(sandbox_id=sandbox.id, epoch=1, state="running", in_flight=1, idle_s=5000)
        await record_heartbeat(plane, a_heartbeat(sequence=2, vms=[vm]))
        assert await expiry.tick(plane, fleet.engine, term=1) == "nothing is idle"


async def test_a_worker_that_stops_takes_nothing_new(plane: ControlPlane) -> None:
    await record_heartbeat(plane, a_heartbeat(sequence=2, stopping=True))
    assert (await plane.stores.workers.get(WorkerId("wk-one"))).state is WorkerState.SILENT


async def test_one_of_two_replicas_leads_and_a_new_leader_has_a_higher_term(replicas: Any) -> None:
    one, two = Leadership(replicas.plane("replica-1")), Leadership(replicas.plane("replica-2"))
    assert await one.tick() == "I lead, term 1"
    assert await two.tick() == "another leads, or Redis is away"
    assert (one.term, two.term) == (1, None)
    await one.give_up()
    assert await two.tick() == "I lead, term 2"
    assert (one.term, two.term) == (None, 2)


async def test_a_leader_stops_before_its_lease_can_have_expired(replicas: Any) -> None:
    clock = JumpingClock()
    plane = replace(replicas.plane("replica-1", leader_lease_s=12), clock=clock)
    leader = Leadership(plane)
    await leader.tick()
    await clock.advance(12 * (1 - MARGIN_RATIO) - 0.1)
    assert leader.term == 1
    await clock.advance(0.2)
    assert leader.term is None
    assert await plane.leases.extend("leader", "replica-1", ttl_s=1)  # though Redis still has it


async def test_without_redis_nobody_leads(replicas: Any) -> None:
    lonely = replace(replicas, redis_url="redis://127.0.0.1:1/0")
    leader = Leadership(lonely.plane("replica-1"))
    assert "Redis is away" in await leader.tick()
    assert leader.term is None


async def test_a_loop_that_fails_or_lost_the_term_stops_no_other(replicas: Any) -> None:
    plane = replicas.plane("replica-1")
    leadership = Leadership(plane)
    await leadership.tick()

    async def failing(term: int) -> str:
        raise ZeroDivisionError

    async def fenced(term: int) -> str:
        raise StaleTerm("over")

    async def away(term: int) -> str:
        raise StoreUnavailable("away")

    async def fine(term: int) -> str:
        return f"term {term}"

    runner = LoopRunner(plane, leadership, ())
    assert await runner.tick(Loop("failing", 1, failing)) == "the tick failed"
    assert await runner.tick(Loop("away", 1, away)) == "PostgreSQL is away"
    assert await runner.tick(Loop("fine", 1, fine)) == "term 1"
    assert await runner.tick(Loop("fenced", 1, fenced)) == "a newer leader was elected: I stop leading"
    assert await runner.tick(Loop("fine", 1, fine)) == FOLLOWING
    assert runner.sentences["failing"] == "the tick failed"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (StaleTerm("over"), "a newer leader was elected: I stop leading"),
        (StoreUnavailable("away"), "PostgreSQL is away"),
    ],
)
async def test_what_a_loop_does_at_once_is_heard_through_the_group_of_its_tasks(
    replicas: Any, error: Exception, sentence: str
) -> None:
    """The reconciler looks at many workers at once: a newer term that one meets deposes the leader."""
    plane = replicas.plane("replica-1")
    leadership = Leadership(plane)
    await leadership.tick()

    async def fails(failure: Exception) -> None:
        raise failure

    async def many(term: int) -> str:
        async with asyncio.TaskGroup() as outer, asyncio.TaskGroup() as inner:
            outer.create_task(fails(ValueError("less important")))
            inner.create_task(fails(error))
        return "done"

    runner = LoopRunner(plane, leadership, ())
    assert await runner.tick(Loop("many", 1, many)) == sentence
    is_deposed = isinstance(error, StaleTerm)
    assert (leadership.term is None) is is_deposed


async def test_the_running_loops_take_over_and_expire_by_themselves(
    replicas: Any, plane: ControlPlane
) -> None:
    async with AsyncExitStack() as running:
        fleet = await running.enter_async_context(replicas.replica("replica-1", plane=plane, with_loops=True))
        sandbox = await running_sandbox(plane, fleet, timeout_s=60)
        await make_idle(plane, sandbox)
        ended = await until(plane, SandboxState.STOPPED)
        assert ended.stop_reason is StopReason.EXPIRED
        assert await takeover.tick(plane, fleet.engine) == "nothing to take over"
        assert await cleanup.tick(plane) == "nothing is old"
