"""What every `ports.transition_log.TransitionLog` tells of the whole fleet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from sandfleet.controlplane.dependencies import Stores
from sandfleet.lifecycle.event_types import events_of
from sandfleet.model.drain import DrainOwner
from sandfleet.model.errors import StaleTerm
from sandfleet.model.fleet_news import FleetNews
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.launch import LaunchFailure, LaunchId
from sandfleet.planning.fleet import AbandonLaunch, DrainWorker, LaunchMachine, RemoveWorker
from sandfleet.ports.fleet_store import FleetDecision
from sandfleet.ports.transition_log import LogQuery
from sandfleet.testing.builders import a_worker, an_organisation
from sandfleet.testing.conformance.checking import Check, create, refusing

CAPACITY = DrainOwner.CAPACITY
ONE = WorkerId("wk-one")
FIRST, SECOND = LaunchId("launch-00000001"), LaunchId("launch-00000002")
FLEET = LogQuery(is_of_fleet=True)
MANY = 100


async def _events(stores: Stores, query: LogQuery = FLEET) -> Sequence[str]:
    """Return what there is of it, the oldest first."""
    return [row.event for row in reversed(await stores.log.newest(query, limit=MANY))]


async def _life_of_a_machine(stores: Stores) -> int:
    """Two are launched: one joins and goes when it is empty, the other never comes."""
    term = await stores.terms.raise_term("leader")
    launches = [LaunchMachine(one, "local/small", "v1", "two are wanted") for one in (FIRST, SECOND)]
    await stores.fleet.record(FleetDecision(CAPACITY, launches), term=term)
    await stores.fleet.record(FleetDecision(CAPACITY, launches), term=term)
    await stores.fleet.name_machine(FIRST, "m-1", term=term)
    await stores.workers.register(a_worker(ONE, machine_id="m-1"))
    await stores.fleet.join(FIRST, ONE, term=term)
    await stores.fleet.fail(SECOND, LaunchFailure.QUOTA, said="no more", term=term)
    commands = (DrainWorker(ONE, CAPACITY, "it saves 2.0 times the share"), RemoveWorker(ONE, "spare"))
    await stores.fleet.record(FleetDecision(CAPACITY, commands), term=term)
    for launch in (FIRST, SECOND):
        await stores.fleet.let_go(launch, term=term)
        await stores.fleet.let_go(launch, term=term)
    return term


async def each_step_of_a_machine_is_told_once_and_with_its_reason(stores: Stores) -> None:
    """Also when a decision is recorded twice."""
    await _life_of_a_machine(stores)
    rows = (await stores.log.newest(FLEET, limit=MANY))[::-1]
    assert [(row.event, row.actor) for row in rows] == [
        ("elected", "leader"),
        ("launch_requested", "capacity"),
        ("launch_requested", "capacity"),
        ("registered", ONE),
        ("launch_joined", "machines"),
        ("launch_failed", "machines"),
        ("drain_requested", "capacity"),
        ("forgotten", "capacity"),
        ("machine_gone", "machines"),
        ("machine_gone", "machines"),
    ]
    said = {row.event: row.reason for row in rows}
    assert said["launch_requested"] == "two are wanted"
    assert said["launch_failed"] == "quota: no more"
    assert said["drain_requested"] == "it saves 2.0 times the share"
    assert said["forgotten"] == "spare"
    joined = rows[4]
    assert (joined.worker_id, joined.detail["launch"], joined.detail["machine"]) == (ONE, FIRST, "m-1")
    assert [(row.from_state, row.to_state) for row in rows if row.event == "forgotten"] == [("ready", "gone")]
    assert all(row.sandbox_id is None for row in rows)
    assert [row.id for row in rows] == sorted({row.id or 0 for row in rows})


async def a_launch_that_is_abandoned_says_who_gave_it_up(stores: Stores) -> None:
    term = await stores.terms.raise_term("leader")
    launch = LaunchMachine(FIRST, "local/small", "v1", "wanted")
    given_up = AbandonLaunch(FIRST, "it has not joined")
    await stores.fleet.record(FleetDecision(CAPACITY, (launch, given_up)), term=term)
    (last,) = await stores.log.newest(FLEET, limit=1)
    assert (last.event, last.actor, last.reason) == ("launch_failed", "capacity", "broken: it has not joined")


async def a_row_is_found_by_what_it_is_about(stores: Stores) -> None:
    """By its type, worker, launch and time; and what follows or precedes a row."""
    await _life_of_a_machine(stores)
    drains = LogQuery(events=events_of(["drain"]), is_of_fleet=True)
    assert await _events(stores, drains) == ["drain_requested"]
    at_one = ["registered", "launch_joined", "drain_requested", "forgotten"]
    assert await _events(stores, LogQuery(worker_id=ONE)) == at_one
    of_second = ["launch_requested", "launch_failed", "machine_gone"]
    assert await _events(stores, LogQuery(launch_id=SECOND)) == of_second
    everything = (await stores.log.newest(LogQuery(), limit=MANY))[::-1]
    third = everything[2]
    assert await stores.log.following(third.id or 0, limit=2) == everything[3:5]
    later, earlier = LogQuery(after=third.id or 0), LogQuery(before=third.id)
    assert (await stores.log.newest(later, limit=MANY))[::-1] == everything[3:]
    assert (await stores.log.newest(earlier, limit=MANY))[::-1] == everything[:2]
    assert await stores.log.oldest_of_all() == everything[0].id
    since = LogQuery(since=everything[-1].at)
    assert everything[-1] in await stores.log.newest(since, limit=MANY)
    until = replace(since, since=None, until=everything[0].at)
    assert await stores.log.newest(until, limit=MANY) == []
    never = LogQuery(since=everything[-1].at + timedelta(days=1))
    assert await stores.log.newest(never, limit=MANY) == []


async def rows_of_sandboxes_are_not_the_fleets(stores: Stores) -> None:
    """But they are in the whole log, and found by their sandbox."""
    await stores.organisations.create(an_organisation())
    await create(stores, "sb-one")
    await create(stores, "sb-two")
    assert await _events(stores) == []
    assert len(await stores.log.newest(LogQuery(), limit=MANY)) == 2
    (found,) = await stores.log.newest(LogQuery(sandbox_id=SandboxId("sb-two")), limit=MANY)
    assert found.sandbox_id == "sb-two"


async def what_has_no_row_of_its_own_is_told_in_the_leaders_term(stores: Stores) -> None:
    old = await stores.terms.raise_term("leader")
    pressed = FleetNews("pressed", "short of memory", ONE)
    await stores.fleet.tell([pressed], actor="pressure", term=old)
    frozen = FleetNews("frozen", "3 of 4 are unhealthy", detail={"pool": "local"})
    await stores.fleet.record(FleetDecision(CAPACITY, news=(frozen,)), term=old)
    await stores.terms.raise_term("another")
    with refusing(StaleTerm):
        await stores.fleet.tell([frozen], actor="pressure", term=old)
    rows = (await stores.log.newest(FLEET, limit=MANY))[::-1]
    told = [(row.event, row.actor, row.reason, row.worker_id) for row in rows]
    assert told[1:3] == [
        ("pressed", "pressure", "short of memory", ONE),
        ("frozen", "capacity", "3 of 4 are unhealthy", None),
    ]
    assert rows[2].detail == {"pool": "local"}
    assert [row.event for row in rows] == ["elected", "pressed", "frozen", "elected"]


async def history_may_begin_anew_and_nothing_is_deleted(stores: Stores) -> None:
    assert await stores.log.mark() == 0
    assert await stores.log.set_mark() == 0
    await stores.terms.raise_term("leader")
    (row,) = await stores.log.newest(LogQuery(), limit=MANY)
    assert await stores.log.set_mark() == row.id == await stores.log.mark()
    assert await stores.log.newest(LogQuery(), limit=MANY) == [row]


CHECKS: tuple[Check, ...] = (
    each_step_of_a_machine_is_told_once_and_with_its_reason,
    a_launch_that_is_abandoned_says_who_gave_it_up,
    a_row_is_found_by_what_it_is_about,
    rows_of_sandboxes_are_not_the_fleets,
    what_has_no_row_of_its_own_is_told_in_the_leaders_term,
    history_may_begin_anew_and_nothing_is_deleted,
)
