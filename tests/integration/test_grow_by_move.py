"""A size that does not fit its worker: it moves and grows there, in one operation, or stays as it is."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.crashing import (
    Tripwire,
    an_order,
    committed_mib,
    crash,
    prepare,
    run_until_hung,
    until,
    until_done,
)

from sandfleet.controlplane.dependencies import ControlPlane, NewSize
from sandfleet.controlplane.loops import takeover
from sandfleet.model.errors import Conflict, NoCapacity, QuotaExceeded
from sandfleet.model.ids import WorkerId
from sandfleet.model.operation import OperationKind, OperationState
from sandfleet.model.organisation import Quotas
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.testing.builders import ORGANISATION, a_worker, resources
from sandfleet.wire.move_messages import FAILED

pytestmark = pytest.mark.timeout(60)
HOME, AWAY = WorkerId("wk-one"), WorkerId("wk-two")
LARGER = NewSize(3072, 50)
POINTS = [
    (0, "after"),
    (2, "after"),
    (9, "before"),
    (9, "after"),
    (10, "before"),
    (10, "after"),
    (11, "before"),
]
"""Around the beginning, the commit and all that comes after it; test_migrations breaks moves off anywhere."""


async def one_running(replicas: Any, *, away_mib: int = 8192) -> tuple[ControlPlane, Sandbox]:
    """Return an observer and a sandbox of 1024 MiB on a worker that has no room for more than 2048."""
    observer = await prepare(replicas, memory_mib=2048)
    async with replicas.replica("replica-0") as fleet:
        await fleet.create(an_order())
        sandbox = await until(observer, lambda row: row.state is SandboxState.RUNNING)
    total = resources(away_mib, cpu_count=8, disk_mib=10**7)
    await observer.stores.workers.register(a_worker(AWAY, total=total))
    return observer, sandbox


def grow(fleet: Any, sandbox: Sandbox) -> Any:
    return fleet.resize(sandbox, LARGER, operation_id="op-size", actor="test")


async def grown(replicas: Any, observer: ControlPlane, sandbox: Sandbox) -> Any:
    """Ask for the size and return the operation at its end, when nothing is under way any more."""
    async with replicas.replica("replica-1") as fleet:
        await grow(fleet, sandbox)
        ended = await until_done(observer, "op-size")
        await until(observer, lambda row: row.state is SandboxState.RUNNING)
    assert replicas.movers.violations == []
    return ended


def machines(replicas: Any) -> list[tuple[str, int, int]]:
    """Return every machine: where, of which size, under which epoch."""
    hosts = replicas.workers.hosts
    return [(name, vm.memory_mib, vm.epoch) for name, host in hosts.items() for vm in host.vms.values()]


async def test_it_moves_and_has_its_size_there(replicas: Any) -> None:
    observer, sandbox = await one_running(replicas)
    ended = await grown(replicas, observer, sandbox)
    assert (ended.kind, ended.state) == (OperationKind.MIGRATE, OperationState.SUCCEEDED)
    assert machines(replicas) == [(AWAY, 3072, 2)]
    after = await observer.stores.sandboxes.get_any(sandbox.id)
    assert (after.worker_id, after.resources.memory_mib, after.cpu_percent) == (AWAY, 3072, 50)
    promised = {worker.id: worker.committed.memory_mib for worker in await observer.stores.workers.list()}
    assert promised == {HOME: 0, AWAY: 3072}


@pytest.mark.parametrize(("number", "when"), POINTS)
async def test_it_ends_on_one_worker_with_one_size_whenever_its_replica_dies(
    replicas: Any, number: int, when: str
) -> None:
    observer, sandbox = await one_running(replicas)
    wire = Tripwire(number, when)
    assert await run_until_hung(replicas, wire, lambda fleet: grow(fleet, sandbox), looks_up=False)
    await crash(replicas, observer)
    async with replicas.replica("replica-2") as fleet:
        await takeover.tick(fleet.engine._plane, fleet.engine)
        ended = await until_done(observer, "op-size")
        await until(observer, lambda row: row.state is SandboxState.RUNNING)
    assert ended.state is OperationState.SUCCEEDED
    assert machines(replicas) == [(AWAY, 3072, 2)]
    assert await committed_mib(observer) == 3072
    assert replicas.movers.violations == []


async def test_a_move_that_fails_leaves_it_as_it_was(replicas: Any) -> None:
    observer, sandbox = await one_running(replicas)
    replicas.movers.ends_with = FAILED
    ended = await grown(replicas, observer, sandbox)
    assert ended.state is OperationState.FAILED
    after = await observer.stores.sandboxes.get_any(sandbox.id)
    assert (after.worker_id, after.resources, after.epoch) == (HOME, sandbox.resources, 1)
    assert machines(replicas) == [(HOME, 1024, 1)]
    assert await committed_mib(observer) == 1024


async def test_what_refuses_the_size_there_leaves_it_there_at_its_old_size(replicas: Any) -> None:
    observer, sandbox = await one_running(replicas)
    replicas.workers.host(AWAY).resize_failure = Conflict("its guest does not take it", code="oom_floor")
    ended = await grown(replicas, observer, sandbox)
    assert (ended.state, ended.error_code) == (OperationState.FAILED, "oom_floor")
    after = await observer.stores.sandboxes.get_any(sandbox.id)
    assert (after.worker_id, after.resources.memory_mib, after.cpu_percent) == (AWAY, 1024, None)
    assert machines(replicas) == [(AWAY, 1024, 2)]
    assert await committed_mib(observer) == 1024


async def test_without_room_anywhere_it_is_told_why_of_each(replicas: Any) -> None:
    observer, sandbox = await one_running(replicas, away_mib=2048)
    async with replicas.replica("replica-1") as fleet:
        with pytest.raises(NoCapacity) as refused:
            await grow(fleet, sandbox)
    assert "worker wk-one is short of 2048 MiB memory" in refused.value.message
    assert "wk-two can never hold it" in refused.value.message
    assert await observer.stores.sandboxes.get_any(sandbox.id) == sandbox


async def test_it_counts_with_its_new_size_against_the_quota_from_the_beginning(replicas: Any) -> None:
    observer, sandbox = await one_running(replicas)
    organisations = observer.stores.organisations
    await organisations.change(ORGANISATION, name=None, quotas=Quotas(memory_mib=3071), caps=None)
    async with replicas.replica("replica-1") as fleet:
        with pytest.raises(QuotaExceeded):
            await grow(fleet, sandbox)
    await organisations.change(ORGANISATION, name=None, quotas=Quotas(memory_mib=3072), caps=None)
    wire = Tripwire(2, "before")
    assert await run_until_hung(replicas, wire, lambda fleet: grow(fleet, sandbox), looks_up=False)
    assert (await organisations.usage(ORGANISATION)).memory_mib == 3072
