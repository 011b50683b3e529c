"""Launches and the states of the planners in memory (port: `ports.fleet_store.FleetStore`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

from sandfleet.model.drain import DrainOwner
from sandfleet.model.errors import Conflict, NotFound
from sandfleet.model.fleet_news import FleetNews
from sandfleet.model.ids import WorkerId
from sandfleet.model.launch import Launch, LaunchFailure, LaunchId, LaunchState
from sandfleet.model.machine import Machine
from sandfleet.model.worker import WorkerState
from sandfleet.planning.capacity_memory import CapacityMemory
from sandfleet.planning.fleet import (
    AbandonLaunch,
    DrainWorker,
    FleetCommand,
    KeepWorker,
    LaunchMachine,
    RemoveWorker,
)
from sandfleet.ports.fleet_store import (
    AFTER_ALL,
    ENDED_LAUNCHES_KEPT,
    MACHINES,
    NO_LAUNCH,
    POOL_SAID_GONE,
    FleetDecision,
    LeftOut,
    joined_news,
    launch_news,
)
from sandfleet.testing.memory.database import MemoryDatabase, as_json
from sandfleet.testing.memory.drains import begin_drain, end_drain
from sandfleet.testing.memory.link import Link
from sandfleet.testing.memory.rollouts import record_rollout
from sandfleet.testing.memory.workers import forget_worker

_CAPACITY = "capacity"


class MemoryFleetStore:
    """What was decided about machines."""

    def __init__(self, database: MemoryDatabase, link: Link) -> None:
        self._database = database
        self._link = link

    async def memory(self) -> CapacityMemory:
        """Return what the capacity planner remembers."""

        def work() -> CapacityMemory:
            value = self._database.planner_states.get(_CAPACITY)
            return CapacityMemory() if value is None else CapacityMemory.from_json(value)

        return await self._link.call(work, repeatable=True, name="capacity_memory")

    async def launches(self) -> Sequence[Launch]:
        """Return the open ones and the newest of the others."""

        def work() -> Sequence[Launch]:
            known = [self._database.launches[name] for name in sorted(self._database.launches)]
            ended = [one for one in known if one.gone_at is not None]
            left = {one.id for one in ended[:-ENDED_LAUNCHES_KEPT]}
            return [one for one in known if one.id not in left]

        return await self._link.call(work, repeatable=True, name="launches")

    async def record(self, decision: FleetDecision, *, term: int) -> Sequence[LeftOut]:
        """Write it down."""

        def work() -> Sequence[LeftOut]:
            database = self._database
            database.require_term(term)
            if decision.rollout is not None:
                record_rollout(database, decision.rollout, actor=decision.by.value)
            if decision.memory is not None:
                database.planner_states[_CAPACITY] = as_json(decision.memory.to_json())
            for news in decision.news:
                database.tell(news, actor=decision.by.value)
            said = [(command, _recorded(database, command, by=decision.by)) for command in decision.commands]
            return [LeftOut(command, because) for command, because in said if because is not None]

        return await self._link.call(work, repeatable=True, name="record_fleet_decision")

    async def name_machine(self, launch_id: LaunchId, machine_id: str, *, term: int) -> bool:
        """Note what the pool calls it."""
        return await self._change(launch_id, term, lambda one: replace(one, machine_id=machine_id))

    async def join(self, launch_id: LaunchId, worker_id: WorkerId, *, term: int) -> bool:
        """Note who has joined."""

        def joined(launch: Launch) -> Launch | None:
            if launch.state is not LaunchState.PENDING:
                return None
            now = self._database.now()
            self._database.tell(joined_news(launch, worker_id, at=now), actor=MACHINES)
            return replace(launch, state=LaunchState.JOINED, ended_at=now, worker_id=worker_id)

        return await self._change(launch_id, term, joined)

    async def fail(self, launch_id: LaunchId, why: LaunchFailure, *, said: str, term: int) -> bool:
        """Give it up."""

        def work() -> bool:
            self._database.require_term(term)
            return _give_up(self._database, launch_id, why, said, actor=MACHINES) is None

        return await self._link.call(work, repeatable=True, name="fail_launch")

    async def take_off(self, launch_id: LaunchId, *, term: int) -> bool:
        """Take the worker of its machine off the fleet if it is empty."""

        def work() -> bool:
            self._database.require_term(term)
            return _take_off(self._database, launch_id)

        return await self._link.call(work, repeatable=True, name="take_off")

    async def let_go(self, launch_id: LaunchId, *, term: int) -> bool:
        """Note that its machine is gone."""

        def let_go(launch: Launch) -> Launch | None:
            if launch.ending_since is None:
                return None
            if launch.gone_at is None:
                self._database.tell(launch_news("machine_gone", launch, POOL_SAID_GONE), actor=MACHINES)
            return replace(launch, gone_at=launch.gone_at or self._database.now())

        return await self._change(launch_id, term, let_go)

    async def lose(self, worker_id: WorkerId, *, because: str, term: int) -> bool:
        """Take it off the fleet by its pool's word."""

        def work() -> bool:
            database = self._database
            database.require_term(term)
            worker = database.workers.get(worker_id)
            if worker is None or worker.state is not WorkerState.UNREACHABLE:
                return False
            forget_worker(database, worker_id, is_lost=True, actor="capacity", because=because)
            return True

        return await self._link.call(work, repeatable=True, name="lose")

    async def end_orphan(self, machine: Machine, *, pool: str, term: int) -> bool:
        """Have a launch that ends it."""

        def work() -> bool:
            self._database.require_term(term)
            return _end_orphan(self._database, machine, pool)

        return await self._link.call(work, repeatable=True, name="end_orphan")

    async def tell(self, news: Sequence[FleetNews], *, actor: str, term: int) -> None:
        """Have the log tell it."""

        def work() -> None:
            self._database.require_term(term)
            for one in news:
                self._database.tell(one, actor=actor)

        await self._link.call(work, repeatable=True, name="tell")

    async def remove_old(self, *, gone_for: timedelta, limit: int = 1000) -> int:
        """Delete those whose machines are long gone."""

        def work() -> int:
            launches, until = self._database.launches, self._database.now() - gone_for
            old = [one.id for one in launches.values() if one.gone_at is not None and one.gone_at < until]
            for launch_id in old[:limit]:
                del launches[launch_id]
            return len(old[:limit])

        return await self._link.call(work, repeatable=True, name="remove_old_launches")

    async def _change(
        self, launch_id: LaunchId, term: int, change: Callable[[Launch], Launch | None]
    ) -> bool:
        def work() -> bool:
            database = self._database
            database.require_term(term)
            launch = database.launches.get(launch_id)
            after = None if launch is None else change(launch)
            if after is not None:
                database.launches[launch_id] = after
            return after is not None

        return await self._link.call(work, repeatable=True, name="change_launch")


def _recorded(database: MemoryDatabase, command: FleetCommand, *, by: DrainOwner) -> str | None:
    """Record it, or say why not."""
    try:
        match command:
            case LaunchMachine():
                _launch(database, command, by=by)
                return None
            case AbandonLaunch(launch_id=launch_id, reason=reason):
                return _give_up(database, launch_id, LaunchFailure.BROKEN, reason, actor=by.value)
            case DrainWorker(worker_id=worker_id, owner=owner):
                now = begin_drain(database, worker_id, owner=owner, actor=owner.value, terms=command.terms)
                return None if now is owner else f"{worker_id} is drained by {now} already"
            case KeepWorker(worker_id=worker_id, owner=owner, reason=reason):
                ended = end_drain(database, worker_id, actor=owner.value, reason=reason, owner=owner)
                return None if ended else f"{worker_id} is not drained by {owner}"
            case RemoveWorker():
                return _remove(database, command, by=by)
    except (NotFound, Conflict) as error:
        return error.message


def _launch(database: MemoryDatabase, command: LaunchMachine, *, by: DrainOwner) -> None:
    launch = Launch(command.launch_id, command.size, command.version, database.now(), reason=command.reason)
    if database.launches.setdefault(command.launch_id, launch) is launch:
        database.tell(launch_news("launch_requested", launch, command.reason), actor=by.value)


def _give_up(
    database: MemoryDatabase, launch_id: LaunchId, why: LaunchFailure, said: str, *, actor: str
) -> str | None:
    launch = database.launches.get(launch_id)
    if launch is None or launch.state is not LaunchState.PENDING:
        return f"{launch_id} is not pending any more"
    there = _workers_of(database, launch)
    if there:
        return f"{there[0]} has reported from its machine"
    now = database.now()
    database.launches[launch_id] = replace(
        launch, state=LaunchState.FAILED, failure=why, said=said, ended_at=now, ending_since=now
    )
    database.tell(launch_news("launch_failed", launch, f"{why}: {said}"), actor=actor)
    return None


def _take_off(database: MemoryDatabase, launch_id: LaunchId) -> bool:
    launch = database.launches.get(launch_id)
    if launch is None or launch.ending_since is None:
        return False
    for worker_id in _workers_of(database, launch):
        try:
            forget_worker(database, worker_id, is_lost=False, actor="capacity")
        except Conflict:
            database.launches[launch_id] = replace(
                launch,
                state=LaunchState.JOINED,
                failure=None,
                said="",
                ended_at=database.now(),
                ending_since=None,
                gone_at=None,
                worker_id=worker_id,
            )
            news = launch_news("launch_joined", launch, AFTER_ALL, worker_id=worker_id)
            database.tell(news, actor=MACHINES)
            return False
    return True


def _end_orphan(database: MemoryDatabase, machine: Machine, pool: str) -> bool:
    known = [
        one
        for one in database.launches.values()
        if one.id == machine.launch_id or one.machine_id == machine.id
    ]
    if any(one.owns(machine.id, machine.launch_id) for one in known):
        return False
    now = database.now()
    mine = next((one for one in known if one.machine_id in (None, machine.id)), None) or Launch(
        LaunchId(f"orphan-{machine.id}"),
        f"{pool}/{machine.size}",
        "",
        now,
        state=LaunchState.FAILED,
        reason=NO_LAUNCH,
        said=NO_LAUNCH,
    )
    ending = replace(mine, machine_id=machine.id, ending_since=mine.ending_since or now, gone_at=None)
    database.launches[mine.id] = ending
    database.tell(launch_news("orphan_ended", ending, NO_LAUNCH), actor=MACHINES)
    return True


def _workers_of(database: MemoryDatabase, launch: Launch) -> list[WorkerId]:
    return sorted(
        worker.id
        for worker in database.workers.values()
        if worker.machine_id in launch.machine_names and worker.state is not WorkerState.GONE
    )


def _remove(database: MemoryDatabase, command: RemoveWorker, *, by: DrainOwner) -> str | None:
    worker_id, drain = command.worker_id, database.drains.get(command.worker_id)
    if drain is None or drain.owner is not by:
        return f"{worker_id} is not drained by {by}"
    owned = [one for one in database.launches.values() if one.worker_id == worker_id and not one.gone_at]
    if not owned:
        return f"the machine of {worker_id} was not launched by the fleet"
    forget_worker(database, worker_id, is_lost=False, actor=by.value, because=command.reason)
    return None
