"""Carries out what was decided about machines: asks the pools, sees workers join, ends what was given up.

All that it needs stands in the launches' rows and in the pools, so a new leader goes on where the old one
was: a launch that got no answer is asked for again by the same name, and one that is to end is ended again
until its pool says that it is gone. Each pool has a loop of its own: one that hangs holds up its own machines
alone, and what it was asked for is given up after a while, so that other pools are asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.model.errors import MachineRefused, PoolUnreachable
from sandfleet.model.launch import Launch, LaunchFailure, LaunchId, LaunchState
from sandfleet.model.machine import Machine, MachineOrder
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.ports.machine_pool import MachinePool

_log = structlog.get_logger(__name__)

CALLS_MAX = 50
"""In one round; the others have their turn in the next."""
ROUND = timedelta(seconds=15)
"""For so long calls are begun in one round: with the last of them it ends well within a tick."""
SILENCES_MAX = 3
"""So many calls of one round without an answer, and the pool is left alone until the next."""
LOOK_EVERY = timedelta(seconds=10)
"""So often at most a pool is asked whether machines that boot have come to nothing."""
UNANSWERED = timedelta(seconds=90)
"""A launch of which the pool has said nothing for so long is given up, so that another pool has its turn."""
UNSEEN = timedelta(minutes=5)
"""So long after a launch was given up a machine of it that nobody has seen may still come to light."""


@dataclass(slots=True)
class MachineLoop:
    """The leader's loop for one pool; it remembers only whose turn was last, and when it looked."""

    plane: ControlPlane
    pool: MachinePool
    _last: LaunchId | None = None
    _looked_at: datetime | None = None

    async def tick(self, *, term: int) -> str:
        """Go on with every launch of the pool that is pending, or whose machine is to end."""
        name = self.pool.name
        launches = [one for one in await open_launches(self.plane) if one.pool == name]
        if not launches:
            return f"{name}: no machine is asked for"
        workers = {
            one.machine_id: one
            for one in await self.plane.stores.workers.list()
            if one.state is not WorkerState.GONE
        }
        round_ = _Round(self.plane, self.pool, term)
        began_at = self.plane.clock.now()
        for launch in self._in_turn(launches):
            is_over = self.plane.clock.now() - began_at >= ROUND
            if is_over or round_.calls >= CALLS_MAX or len(round_.silences) >= SILENCES_MAX:
                break
            self._last = launch.id
            await round_.go_on(launch, workers)
        await self._look(round_, launches)
        if round_.silences:
            await round_.give_up(launches)
        return f"{name}: {round_.sentence(launches)}"

    async def _look(self, round_: _Round, launches: Sequence[Launch]) -> None:
        """Now and then see what became of machines that were begun."""
        booting = {one.machine_id: one for one in launches if _is_booting(one)}
        now, before = self.plane.clock.now(), self._looked_at
        if booting and not round_.silences and (before is None or now - before >= LOOK_EVERY):
            self._looked_at = now
            await round_.look(booting)

    def _in_turn(self, launches: Sequence[Launch]) -> Sequence[Launch]:
        last = self._last or ""
        return sorted(launches, key=lambda one: (one.id <= last, one.id))


async def open_launches(plane: ControlPlane) -> Sequence[Launch]:
    """Return those for which there is something to do."""
    return [one for one in await plane.stores.fleet.launches() if _is_open(one)]


async def look_for_pools(plane: ControlPlane) -> str:
    """Say which launches wait for pools that the settings do not name: another server's may."""
    lost = Counter(one.pool for one in await open_launches(plane) if one.pool not in plane.pools)
    said = [
        f"{name}: there is no such pool here, {count} launches wait" for name, count in sorted(lost.items())
    ]
    return "; ".join(said) or "every launch has its pool"


class _Round:
    """One pool in one round."""

    def __init__(self, plane: ControlPlane, pool: MachinePool, term: int) -> None:
        self._plane, self._pool, self._term = plane, pool, term
        self._fleet = plane.stores.fleet
        self._listed: Sequence[Machine] | None = None
        self._named: set[LaunchId] = set()
        self._done: Counter[str] = Counter()
        self.calls = 0
        self.silences: list[str] = []

    async def go_on(self, launch: Launch, workers: Mapping[str, Worker]) -> None:
        """Take the next step of one launch."""
        try:
            if launch.is_ending:
                await self._end(launch)
                return
            worker = next((workers[name] for name in launch.machine_names if name in workers), None)
            if worker is not None:
                self._done["joined"] += await self._fleet.join(launch.id, worker.id, term=self._term)
            elif launch.machine_id is None:
                await self._launch(launch)
        except PoolUnreachable as error:
            self.silences.append(error.message)

    async def look(self, booting: Mapping[str | None, Launch]) -> None:
        """Give those up of which the pool says that their machine never comes up."""
        try:
            for machine in await self._machines():
                launch = booting.get(machine.id)
                if launch is not None and machine.failure is not None:
                    is_failed = await self._fail(launch, machine.failure, said=machine.said)
                    self._done[f"failed ({machine.failure})"] += is_failed
        except PoolUnreachable as error:
            self.silences.append(error.message)

    async def give_up(self, launches: Sequence[Launch]) -> None:
        """Wait no longer for those of which a silent pool has said nothing; what comes late is ended."""
        before = self._plane.clock.now() - UNANSWERED
        for launch in launches:
            is_named = launch.machine_id is not None or launch.id in self._named
            if launch.state is LaunchState.PENDING and not is_named and launch.requested_at <= before:
                said = f"no answer for {UNANSWERED.total_seconds():.0f} s: {self.silences[0]}"
                is_failed = await self._fail(launch, LaunchFailure.UNREACHABLE, said=said)
                self._done[f"failed ({LaunchFailure.UNREACHABLE})"] += is_failed

    def sentence(self, launches: Sequence[Launch]) -> str:
        """Say what was done, or what is waited for."""
        ending = sum(one.is_ending for one in launches)
        done = ", ".join(f"{number} {what}" for what, number in sorted(self._done.items()) if number)
        waiting = f"{len(launches) - ending} machines boot, {ending} end"
        return "; ".join([done or waiting, *self.silences[:1]])

    async def _launch(self, launch: Launch) -> None:
        order = MachineOrder(launch.id, launch.size.partition("/")[2], launch.version)
        self.calls += 1
        try:
            machine = await self._pool.launch(order, term=self._term)
        except MachineRefused as error:
            if await self._fail(launch, error.failure, said=error.message):
                self._done[f"refused ({error.failure})"] += 1
                await self._fleet.let_go(launch.id, term=self._term)
        else:
            self._named.add(launch.id)
            self._done["begun"] += await self._fleet.name_machine(launch.id, machine.id, term=self._term)

    async def _fail(self, launch: Launch, why: LaunchFailure, *, said: str) -> bool:
        is_failed = await self._fleet.fail(launch.id, why, said=said, term=self._term)
        if is_failed:
            _log.warning("launch_failed", launch=launch.id, size=launch.size, failure=why, said=said)
        return is_failed

    async def _end(self, launch: Launch) -> None:
        machine_id = launch.machine_id or await self._found(launch)
        # Asked also when no machine is known: its worker may have come under the name of the launch.
        if not await self._fleet.take_off(launch.id, term=self._term):
            self._done["joined after all"] += 1
        elif machine_id is not None:
            self.calls += 1
            if await self._pool.terminate(machine_id, term=self._term):
                self._done["gone"] += await self._fleet.let_go(launch.id, term=self._term)
        elif self._is_settled(launch):
            self._done["gone"] += await self._fleet.let_go(launch.id, term=self._term)

    async def _found(self, launch: Launch) -> str | None:
        """Find a machine by its tag, of a launch that was given up before its pool had answered."""
        if not self._is_settled(launch):
            return None
        tagged = {one.launch_id: one.id for one in await self._machines()}
        found = tagged.get(launch.id)
        if found is not None:
            await self._fleet.name_machine(launch.id, found, term=self._term)
        return found

    async def _machines(self) -> Sequence[Machine]:
        if self._listed is None:
            self.calls += 1
            self._listed = await self._pool.list()
        return self._listed

    def _is_settled(self, launch: Launch) -> bool:
        """Whether no call for it can be under way any more."""
        since = launch.ending_since
        return since is not None and self._plane.clock.now() - since >= UNSEEN


def _is_open(launch: Launch) -> bool:
    return launch.state is LaunchState.PENDING or launch.is_ending


def _is_booting(launch: Launch) -> bool:
    return launch.state is LaunchState.PENDING and launch.machine_id is not None
