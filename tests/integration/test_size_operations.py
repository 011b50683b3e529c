"""Resize and reboot: a crash at any point, a refusal: what is reserved is never less than what runs."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.crashing import (
    POINTS,
    Tripwire,
    an_order,
    committed_mib,
    crash,
    prepare,
    run_until_hung,
    until,
)

from sandfleet.controlplane.dependencies import NewSize
from sandfleet.controlplane.loops import takeover
from sandfleet.model.errors import Conflict
from sandfleet.model.ids import OperationId
from sandfleet.model.operation import OperationState
from sandfleet.model.sandbox import Sandbox, SandboxState

pytestmark = pytest.mark.timeout(240)
LARGER, SMALLER = NewSize(2048, None), NewSize(512, 50)


async def a_running(replicas: Any, observer: Any) -> Sandbox:
    async with replicas.replica("replica-0") as fleet:
        await fleet.create(an_order())
        found: Sandbox = await until(observer, lambda row: row.state is SandboxState.RUNNING)
    return found


@pytest.mark.parametrize(("number", "when"), POINTS)
@pytest.mark.parametrize("wanted", [LARGER, SMALLER])
async def test_a_change_of_size_survives_the_death_of_its_replica_at_any_point(
    replicas: Any, number: int, when: str, wanted: NewSize
) -> None:
    observer = await prepare(replicas)
    sandbox = await a_running(replicas, observer)
    wire = Tripwire(number, when)
    await run_until_hung(
        replicas,
        wire,
        lambda fleet: fleet.resize(sandbox, wanted, operation_id="op-size", actor="test"),
    )
    assert await committed_mib(observer) >= replicas.workers.host("wk-one").vms[sandbox.id].memory_mib
    await crash(replicas, observer)
    async with replicas.replica("replica-2") as fleet:
        await takeover.tick(fleet.engine._plane, fleet.engine)
        try:
            ended = await fleet.engine.wait_for(OperationId("op-size"), timeout_s=90)
        except Exception:  # noqa: BLE001 -- the replica died before anything was written
            assert await committed_mib(observer) == 1024
            return
    assert ended.state is OperationState.SUCCEEDED
    after = await observer.stores.sandboxes.get_any(sandbox.id)
    assert (after.resources.memory_mib, after.cpu_percent) == (wanted.memory_mib, wanted.cpu_percent)
    assert await committed_mib(observer) == wanted.memory_mib
    assert replicas.workers.host("wk-one").vms[sandbox.id].memory_mib == wanted.memory_mib


async def test_a_refused_change_gives_back_what_it_reserved(replicas: Any) -> None:
    observer = await prepare(replicas)
    sandbox = await a_running(replicas, observer)
    replicas.workers.host("wk-one").resize_failure = Conflict("it uses more", code="oom_floor")
    async with replicas.replica("replica-1") as fleet:
        await fleet.resize(sandbox, LARGER, operation_id="op-size", actor="test")
        ended = await fleet.engine.wait_for(OperationId("op-size"), timeout_s=90)
    assert (ended.state, ended.error_code) == (OperationState.FAILED, "oom_floor")
    assert await committed_mib(observer) == 1024


@pytest.mark.parametrize(("number", "when"), POINTS)
async def test_a_reboot_survives_the_death_of_its_replica_at_any_point(
    replicas: Any, number: int, when: str
) -> None:
    observer = await prepare(replicas)
    sandbox = await a_running(replicas, observer)
    wire = Tripwire(number, when)
    await run_until_hung(
        replicas,
        wire,
        lambda fleet: fleet.restart(sandbox, is_clean=True, operation_id="op-boot", actor="test"),
    )
    await crash(replicas, observer)
    async with replicas.replica("replica-2") as fleet:
        await takeover.tick(fleet.engine._plane, fleet.engine)
        after = await until(observer, lambda row: row.state is SandboxState.RUNNING)
    assert len(replicas.workers.host("wk-one").restarts) <= 1
    assert (after.epoch, after.resources) == (sandbox.epoch, sandbox.resources)
    assert await committed_mib(observer) == 1024
