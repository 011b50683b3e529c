"""Pools without a provider: the fake one keeps what every pool keeps, and has its faults on demand."""

from __future__ import annotations

from datetime import timedelta

import pytest

from sandfleet.adapters.machines.static import StaticMachinePool
from sandfleet.model.errors import MachineRefused, PoolUnreachable, StaleTerm
from sandfleet.model.launch import LaunchFailure, LaunchId
from sandfleet.model.machine import MachineOrder, MachinePart, MachineState, PartKind
from sandfleet.testing.clock import JumpingClock
from sandfleet.testing.conformance import machine_pool
from sandfleet.testing.conformance.machine_pool import FIRST, Check, Subject
from sandfleet.testing.fake_machine_pool import FakeAccount, FakeMachinePool

ORDER = MachineOrder(LaunchId("launch-1"), "small", "v1")


@pytest.mark.parametrize("check", machine_pool.CHECKS, ids=lambda check: check.__name__)
async def test_the_fake_pool_conforms(check: Check) -> None:
    clock, account = JumpingClock(), FakeAccount()
    pool = FakeMachinePool(clock, account)

    async def leave_parts() -> int:
        for kind in PartKind:
            pool.leave_part(kind, launch_id=FIRST, made_at=clock.now())
        return len(PartKind)

    kinds = (LaunchFailure.QUOTA, LaunchFailure.STOCKOUT, LaunchFailure.THROTTLED)
    await check(
        Subject(
            pool,
            again=lambda: FakeMachinePool(clock, account),
            stranger=FakeMachinePool(clock, account, fleet="another"),
            pass_time=lambda: clock.advance(5),
            leave_parts=leave_parts,
            refuse={kind: lambda kind=kind: pool.refusals.append(kind) for kind in kinds},  # type: ignore[misc]
        )
    )


async def test_a_machine_whose_answer_was_lost_is_found_by_its_launch() -> None:
    pool = FakeMachinePool(JumpingClock(), FakeAccount())
    pool.answers_lost = 1
    with pytest.raises(PoolUnreachable):
        await pool.launch(ORDER, term=1)
    (found,) = await pool.list()
    assert await pool.launch(ORDER, term=1) == found
    pool.answers_lost = 1
    with pytest.raises(PoolUnreachable):
        await pool.terminate(found.id, term=1)
    assert [one.state for one in await pool.list()] == [MachineState.ENDING]


async def test_no_answer_says_nothing_and_does_nothing() -> None:
    pool = FakeMachinePool(JumpingClock(), FakeAccount())
    pool.is_unreachable = True
    for call in (pool.launch(ORDER, term=1), pool.list(), pool.terminate("m-0001", term=1)):
        with pytest.raises(PoolUnreachable):
            await call
    pool.is_unreachable = False
    assert await pool.list() == []


async def test_what_the_pool_says_of_a_machine_is_told() -> None:
    clock = JumpingClock()
    pool = FakeMachinePool(clock, FakeAccount())
    machine = await pool.launch(ORDER, term=1)
    ends_at = clock.now() + timedelta(minutes=2)
    pool.give_notice(machine.id, ends_at=ends_at)
    pool.lose_tag(machine.id)
    (seen,) = await pool.list()
    assert (seen.ends_at, seen.launch_id) == (ends_at, None)


async def test_the_owner_of_hosts_begins_and_ends_them() -> None:
    pool = StaticMachinePool()
    assert list(pool.sizes) == []
    with pytest.raises(MachineRefused) as refused:
        await pool.launch(ORDER, term=2)
    assert refused.value.failure is LaunchFailure.QUOTA
    assert await pool.list() == []
    assert await pool.terminate("any", term=2)
    with pytest.raises(StaleTerm):
        await pool.launch(ORDER, term=1)
    with pytest.raises(StaleTerm):
        await pool.terminate("any", term=1)
    part = MachinePart(PartKind.DISK, "any", None)
    assert await pool.parts() == []
    assert await pool.remove(part, term=2)
    with pytest.raises(StaleTerm):
        await pool.remove(part, term=1)
