"""A host that is no more, by somebody's word: whoever waits for its worker's answer waits no longer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.integration.crashing import committed_mib, until
from tests.integration.saved import S, ids, snapshot_state, with_checkpoint

from sandfleet.controlplane.dependencies import ControlPlane, NewSize
from sandfleet.controlplane.operations.fleet import Fleet
from sandfleet.model.ids import CheckpointId, OperationId, WorkerId
from sandfleet.model.operation import OperationState
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.snapshot import SnapshotState
from sandfleet.model.worker import WorkerState
from sandfleet.testing.builders import ORGANISATION, a_worker, resources

pytestmark = pytest.mark.timeout(120)
Begin = Callable[[Fleet, ControlPlane, Sandbox], Awaitable[Any]]


async def lose(observer: ControlPlane) -> None:
    """Say that the only host is no more; another takes its place."""
    term = await observer.stores.terms.current_term()
    await observer.stores.workers.mark_absent(WorkerState.SILENT, silent_for=timedelta(0), term=term)
    await observer.stores.workers.forget(WorkerId("wk-one"), is_lost=True, actor="operator")
    await observer.stores.workers.register(
        a_worker("wk-two", total=resources(16384, cpu_count=8, disk_mib=10**7))
    )


async def _hibernate(fleet: Fleet, _: ControlPlane, sandbox: Sandbox) -> None:
    await fleet.hibernate(sandbox, ids=ids("asked"), actor="test")


async def _restore(fleet: Fleet, observer: ControlPlane, sandbox: Sandbox) -> None:
    kept = await observer.stores.checkpoints.get(ORGANISATION, CheckpointId("cp-cp"))
    await fleet.restore(sandbox, kept, ids=ids("asked"), actor="test")


async def _checkpoint(fleet: Fleet, _: ControlPlane, sandbox: Sandbox) -> None:
    await fleet.checkpoint(sandbox, ids=ids("asked"), name="two", actor="test")


async def _resize(fleet: Fleet, _: ControlPlane, sandbox: Sandbox) -> None:
    await fleet.resize(sandbox, NewSize(2048, None), operation_id="op-asked", actor="test")


async def _restart(fleet: Fleet, _: ControlPlane, sandbox: Sandbox) -> None:
    await fleet.restart(sandbox, is_clean=True, operation_id="op-asked", actor="test")


@pytest.mark.parametrize("begin", [_hibernate, _restore, _checkpoint, _resize, _restart])
async def test_what_was_under_way_ends_and_the_sandbox_is_recovered(replicas: Any, begin: Begin) -> None:
    observer, sandbox = await with_checkpoint(replicas)
    await observer.stores.terms.raise_term("replica-1")
    async with replicas.replica("replica-1") as fleet:
        replicas.workers.host("wk-one").is_unreachable = True
        await begin(fleet, observer, sandbox)
        await lose(observer)
        ended = await fleet.engine.wait_for(OperationId("op-asked"), timeout_s=30)
        assert ended.state is OperationState.FAILED
        assert "sb-one was lost" in await fleet.reconciler.tick(term=1)
        after = await until(observer, lambda row: row.state is S.RUNNING and row.worker_id == "wk-two")
    assert after.snapshot_id == "sn-cp"
    assert await committed_mib(observer) == 1024


async def test_a_sandbox_that_slept_with_a_state_that_is_lost_sleeps_on_with_the_one_before(
    replicas: Any,
) -> None:
    observer, sandbox = await with_checkpoint(replicas)
    await observer.stores.terms.raise_term("replica-1")
    async with replicas.replica("replica-1") as fleet:
        replicas.workers.host("wk-one").upload_failure = "the object store is away"
        await fleet.hibernate(sandbox, ids=ids("local"), actor="test")
        asleep = await fleet.engine.wait_for(OperationId("op-local"), timeout_s=30)
        assert asleep.state is OperationState.SUCCEEDED
        await lose(observer)
        again = await until(observer, lambda row: row.state is S.HIBERNATED and row.snapshot_id == "sn-cp")
        assert await snapshot_state(observer, "local") is SnapshotState.FAILED
        log = await observer.stores.sandboxes.transitions(ORGANISATION, sandbox.id)
        assert (log[0].event, log[0].to_state) == ("recover", S.HIBERNATED)
        assert "the host of worker wk-one, which alone had it, was lost; it goes back to" in log[0].reason
        await fleet.wake(again, actor="test", ids={"operation_id": "op-wake"})
        await until(observer, lambda row: row.state is S.RUNNING and row.worker_id == "wk-two")
