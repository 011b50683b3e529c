"""A worker whose machine vanished is lost after a while, by two words: its own silence and its pool's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import cast

import pytest
from tests.unit.controlplane.town import Town

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.loops.lost import LostWorkerLoop
from sandfleet.model.errors import StaleTerm
from sandfleet.model.ids import WorkerId
from sandfleet.model.launch import Launch, LaunchId, LaunchState
from sandfleet.model.worker import WorkerState
from sandfleet.planning.absence import AbsencePolicy, absence, overdue
from sandfleet.testing.builders import NOON, a_worker

POLICY = AbsencePolicy(unreachable_s=60, lost_s=120)
AWAY = a_worker("wk-one", state=WorkerState.UNREACHABLE, last_seen_at=NOON)
LAUNCH = Launch(
    LaunchId("launch-1"),
    "fake/small",
    "v1",
    NOON,
    state=LaunchState.JOINED,
    worker_id=AWAY.id,
    machine_id="m-1",
)


def seconds_after(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


async def report(town: Town, names: Sequence[WorkerId]) -> None:
    """Have workers speak, each as a process that has just begun."""
    for name in names:
        worker = await town.stores.workers.get(name)
        said = replace(worker, state=WorkerState.READY, instance_id=town.clock.now().isoformat())
        await town.stores.workers.register(said)


async def a_town_whose_machine_vanished() -> tuple[Town, LostWorkerLoop, WorkerId]:
    """One worker holds a sandbox, and its machine is no more."""
    town = Town()
    await town.ask(1)
    await town.live(6)
    await report(town, town.workers)
    (held,) = town.database.reservations.values()
    town.pool.vanish(held.worker_id.removeprefix("wk-"))
    settings = SimpleNamespace(absence_policy=POLICY)
    plane = SimpleNamespace(stores=town.stores, clock=town.clock, settings=settings)
    return town, LostWorkerLoop(cast(ControlPlane, plane), town.pool), held.worker_id


async def silent_for(town: Town, worker_id: WorkerId, seconds: float) -> None:
    """Let time pass in which that worker is not heard of."""
    await town.clock.advance(seconds)
    await report(town, [one for one in town.workers if one != worker_id])
    await town.stores.workers.mark_absent(
        WorkerState.UNREACHABLE, silent_for=seconds_after(60), term=town.database.term
    )


async def test_it_is_lost_its_launch_ends_and_another_comes_in_its_place() -> None:
    town, loop, lost = await a_town_whose_machine_vanished()
    term, before = town.database.term, len(town.workers)
    assert await loop.tick(term=term) == "fake: no worker is missed for long"
    await silent_for(town, lost, 100)
    assert await loop.tick(term=term) == "fake: no worker is missed for long"
    await silent_for(town, lost, 30)
    assert await loop.tick(term=term) == f"fake: {lost} lost"
    gone = await town.stores.workers.get(lost)
    assert gone.state is WorkerState.GONE
    assert gone.gone_because == "its pool says that its machine is gone"
    assert await loop.tick(term=term) == "fake: no worker is missed for long"
    town.end(1)
    await town.ask(1)
    await town.live(8)
    (launch,) = [one for one in await town.stores.fleet.launches() if one.worker_id == lost]
    assert launch.gone_at is not None
    assert len(town.workers) == before


async def test_what_its_pool_still_lists_is_not_lost_however_long_it_is_silent() -> None:
    town, loop, vanished = await a_town_whose_machine_vanished()
    other = next(one for one in town.workers if one != vanished)
    await silent_for(town, other, 3600)
    assert await loop.tick(term=town.database.term) == f"fake: {other} unreachable, and there by its word"
    assert (await town.stores.workers.get(other)).state is WorkerState.UNREACHABLE


async def test_a_pool_that_does_not_answer_has_said_nothing_and_an_old_leader_says_nothing() -> None:
    town, loop, lost = await a_town_whose_machine_vanished()
    await silent_for(town, lost, 130)
    town.pool.is_unreachable = True
    assert await loop.tick(term=town.database.term) == "fake: the pool does not answer"
    town.pool.is_unreachable = False
    old = town.database.term
    await town.stores.terms.raise_term("another")
    with pytest.raises(StaleTerm):
        await loop.tick(term=old)
    assert (await town.stores.workers.get(lost)).state is WorkerState.UNREACHABLE


@pytest.mark.parametrize(
    ("launches", "is_overdue"),
    [
        ([LAUNCH], True),
        ([], False),
        ([replace(LAUNCH, ending_since=NOON)], False),
        ([replace(LAUNCH, state=LaunchState.PENDING)], False),
        ([replace(LAUNCH, worker_id=WorkerId("wk-two"))], False),
    ],
)
def test_only_after_a_machine_that_the_fleet_has_launched_somebody_can_be_asked(
    launches: Sequence[Launch], is_overdue: bool
) -> None:
    late = NOON + seconds_after(120)
    assert bool(overdue([AWAY], launches, POLICY, now=late)) is is_overdue
    assert overdue([AWAY], launches, POLICY, now=late - seconds_after(1)) == []
    for state in (WorkerState.READY, WorkerState.SILENT, WorkerState.GONE):
        assert overdue([replace(AWAY, state=state)], launches, POLICY, now=late) == []


def test_what_is_said_of_a_worker_has_a_reason_and_a_time_where_there_is_one() -> None:
    def said(state: WorkerState, *, is_launched: bool = True) -> tuple[str, float | None] | None:
        found = absence(replace(AWAY, state=state), is_launched=is_launched, policy=POLICY)
        if found is None:
            return None
        by = found.deadline_at
        return found.reason, None if by is None else (by - NOON).total_seconds()

    unheard = "not heard of since 2030-01-01 12:00:00"
    assert said(WorkerState.READY) is None
    assert said(WorkerState.SILENT) == (f"{unheard}, or it is being stopped", 60)
    reason, by = said(WorkerState.UNREACHABLE) or ("", None)
    assert reason.startswith(f"{unheard}; if its pool says then that its machine is gone")
    assert by == 120
    reason, by = said(WorkerState.UNREACHABLE, is_launched=False) or ("", None)
    assert (reason.startswith(f"{unheard}; its sandboxes stay its own"), by) == (True, None)
    gone = replace(AWAY, state=WorkerState.GONE, gone_because="it is empty")
    found = absence(gone, is_launched=False, policy=POLICY)
    assert found is not None
    assert (found.reason, found.deadline_at) == ("off the fleet: it is empty", None)
