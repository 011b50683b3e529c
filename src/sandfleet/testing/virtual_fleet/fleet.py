"""A fleet on virtual time: sandboxes come and go, hosts boot, drains move; commands are the planners' own."""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from sandfleet.model.drain import DrainOwner
from sandfleet.model.ids import OperationId, OrganisationId, SandboxId, WorkerId
from sandfleet.model.launch import Launch, LaunchFailure, LaunchId, LaunchState
from sandfleet.model.resources import Resources
from sandfleet.planning.capacity_policy import CapacityPolicy
from sandfleet.planning.consolidation import lightest_first
from sandfleet.planning.fleet import (
    AbandonLaunch,
    DrainWorker,
    FleetCommand,
    KeepWorker,
    LaunchMachine,
    RemoveWorker,
    Resident,
)
from sandfleet.planning.placement import Placement, PlacementRequest
from sandfleet.planning.queue import Waiting, in_turn
from sandfleet.testing.builders import NOON
from sandfleet.testing.virtual_fleet.hosts import TEMPLATE, Host, Hosts
from sandfleet.testing.virtual_fleet.trace import Arrival

ENDED_LAUNCHES_KEPT = 200


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the world outside the planners is."""

    boot_spread: float = 0.3
    """A boot takes up to this part longer than its size says."""
    moves_at_once: int = 2
    move_s: float = 4.0
    move_s_per_gib: float = 1.5
    wait_s_max: float = 30.0
    """Then a create that waits is refused."""
    launch_failure: Callable[[LaunchMachine], LaunchFailure | None] = lambda command: None


@dataclass(slots=True)
class Tally:
    """What happened."""

    placed: int = 0
    refused: int = 0
    waits_s: list[float] = field(default_factory=list)
    """Of those that had to wait and got a place."""
    migrations: int = 0
    migrated_mib: int = 0
    launched_at_s: list[float] = field(default_factory=list)
    removed_at_s: list[float] = field(default_factory=list)
    drains: int = 0
    drains_called_off: int = 0
    placing_s: float = 0.0
    """Real time that placing took."""
    decisions: int = 0


class VirtualFleet:
    """Hosts, sandboxes, a queue, and what is due when."""

    def __init__(self, policy: CapacityPolicy, behaviour: Behaviour, *, seed: int) -> None:
        self.policy = policy
        self.behaviour = behaviour
        self.hosts = Hosts(policy.placement)
        self.tally = Tally()
        self.launches: dict[LaunchId, Launch] = {}
        self.now_s = 0.0
        self.rollout_version: str | None = None
        """Where sandboxes go that a roll-out moves."""
        self._dice = random.Random(seed)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._queue: dict[SandboxId, tuple[Arrival, Waiting]] = {}
        self._waiting_sizes: Counter[Resources] = Counter()
        self._homes: dict[SandboxId, WorkerId] = {}

    @property
    def now(self) -> datetime:
        """The virtual time."""
        return NOON + timedelta(seconds=self.now_s)

    @property
    def queue(self) -> list[PlacementRequest]:
        """Who waits, in turn."""
        return [waiting.request for waiting in in_turn([waiting for _, waiting in self._queue.values()])]

    @property
    def sandboxes(self) -> int:
        """How many live."""
        return len(self._homes)

    def at(self, at_s: float, action: Callable[[], None]) -> None:
        """Do something when its time has come."""
        heapq.heappush(self._due, (at_s, next(self._order), action))

    def run_until(self, until_s: float) -> None:
        """Let everything happen that is due by then."""
        while self._due and self._due[0][0] <= until_s:
            self.now_s, _, action = heapq.heappop(self._due)
            action()
        self.now_s = until_s

    def arrive(self, arrival: Arrival) -> None:
        """Somebody asks for a sandbox."""
        request = PlacementRequest(arrival.resources, TEMPLATE, "local")
        if self._place(arrival, request):
            return
        sandbox_id = SandboxId(arrival.id)
        organisation = OrganisationId(arrival.organisation)
        waiting = Waiting(OperationId(arrival.id), organisation, self.now, request)
        self._queue[sandbox_id] = (arrival, waiting)
        self._waiting_sizes[arrival.resources] += 1
        self.at(self.now_s + self.behaviour.wait_s_max, lambda: self._refuse(sandbox_id))

    def apply(self, command: FleetCommand) -> None:
        """Do what a planner says."""
        match command:
            case LaunchMachine():
                self._launch(command)
            case AbandonLaunch(launch_id=launch_id):
                self._fail(launch_id, LaunchFailure.BROKEN)
            case DrainWorker(worker_id=worker_id, owner=owner):
                self.tally.drains += 1
                self._move_more(self.hosts.drain(worker_id, owner))
            case KeepWorker(worker_id=worker_id, owner=owner):
                self.tally.drains_called_off += 1
                self.hosts.keep(worker_id, owner)
                self._serve_queue()
            case RemoveWorker(worker_id=worker_id):
                self.hosts.remove(worker_id)
                self.tally.removed_at_s.append(self.now_s)

    def retry_moves(self) -> None:
        """Go on with drains that found no place before."""
        for host in list(self.hosts.by_id.values()):
            if host.drained_by is not None:
                self._move_more(host)

    def _place(self, arrival: Arrival, request: PlacementRequest) -> bool:
        began = time.perf_counter()
        choice = self.hosts.index.place(request)
        if isinstance(choice, Placement):
            self.hosts.reserve(choice.worker_id, request.resources)
        self.tally.placing_s += time.perf_counter() - began
        self.tally.decisions += 1
        if not isinstance(choice, Placement):
            return False
        sandbox_id = SandboxId(arrival.id)
        self.hosts.take(choice.worker_id, sandbox_id, request)
        self._homes[sandbox_id] = choice.worker_id
        self.tally.placed += 1
        self.at(self.now_s + arrival.lifetime_s, lambda: self._leave(sandbox_id))
        return True

    def _leave(self, sandbox_id: SandboxId) -> None:
        self.hosts.release(self._homes.pop(sandbox_id), sandbox_id)
        self._serve_queue()

    def _refuse(self, sandbox_id: SandboxId) -> None:
        if sandbox_id in self._queue:
            self._unqueue(sandbox_id)
            self.tally.refused += 1

    def _serve_queue(self) -> None:
        # Which sizes fit is asked before anybody's turn is: most of the time none does.
        if not any(self._fits(size) for size in self._waiting_sizes):
            return
        full: set[Resources] = set()
        for waiting in in_turn([waiting for _, waiting in self._queue.values()]):
            sandbox_id, size = SandboxId(waiting.operation_id), waiting.request.resources
            if size in full:
                continue
            if self._place(self._queue[sandbox_id][0], waiting.request):
                self._unqueue(sandbox_id)
                self.tally.waits_s.append((self.now - waiting.created_at).total_seconds())
            else:
                full.add(size)

    def _fits(self, size: Resources) -> bool:
        return isinstance(self.hosts.index.place(PlacementRequest(size, TEMPLATE, "local")), Placement)

    def _unqueue(self, sandbox_id: SandboxId) -> None:
        _, waiting = self._queue.pop(sandbox_id)
        size = waiting.request.resources
        self._waiting_sizes[size] -= 1
        if not self._waiting_sizes[size]:
            del self._waiting_sizes[size]

    def _launch(self, command: LaunchMachine) -> None:
        self.launches[command.launch_id] = Launch(command.launch_id, command.size, command.version, self.now)
        failure = self.behaviour.launch_failure(command)
        if failure is not None:
            self._fail(command.launch_id, failure)
            return
        size = next(one for one in self.policy.sizes if one.key == command.size)
        boot_s = size.boot_s * (1 + self.behaviour.boot_spread * self._dice.random())
        self.at(self.now_s + boot_s, lambda: self._join(command.launch_id))

    def _join(self, launch_id: LaunchId) -> None:
        launch = self.launches[launch_id]
        if launch.state is not LaunchState.PENDING:
            return
        size = next(one for one in self.policy.sizes if one.key == launch.size)
        self.hosts.add(f"wk-{launch_id}", size, version=launch.version, at=self.now)
        self.tally.launched_at_s.append((launch.requested_at - NOON).total_seconds())
        self._end(replace(launch, state=LaunchState.JOINED, ended_at=self.now))
        self._serve_queue()

    def _fail(self, launch_id: LaunchId, why: LaunchFailure) -> None:
        launch = self.launches[launch_id]
        self._end(replace(launch, state=LaunchState.FAILED, ended_at=self.now, failure=why))

    def _end(self, launch: Launch) -> None:
        self.launches[launch.id] = launch
        ended = [one for one in self.launches.values() if one.state is not LaunchState.PENDING]
        for old in sorted(ended, key=lambda one: one.id)[:-ENDED_LAUNCHES_KEPT]:
            del self.launches[old.id]

    def _move_more(self, host: Host) -> None:
        """Begin as many moves as may go at once, the lightest first."""
        staying = [
            Resident(one, request) for one, request in host.residents.items() if one not in host.leaving
        ]
        for resident in lightest_first(staying):
            if len(host.leaving) >= self.behaviour.moves_at_once:
                return
            self._move(host, resident)

    def _move(self, host: Host, resident: Resident) -> None:
        version = self.rollout_version if host.drained_by is DrainOwner.ROLLOUT else None
        request = replace(resident.request, worker_version=version)
        choice = self.hosts.index.place(request, excluded=frozenset([host.worker_id]))
        if not isinstance(choice, Placement):
            return
        self.hosts.reserve(choice.worker_id, request.resources)
        self.hosts.by_id[choice.worker_id].coming += 1
        host.leaving.add(resident.sandbox_id)
        move_s = self.behaviour.move_s + self.behaviour.move_s_per_gib * request.resources.memory_mib / 1024
        self.at(self.now_s + move_s, lambda: self._moved(host, choice.worker_id, resident))

    def _moved(self, host: Host, target: WorkerId, resident: Resident) -> None:
        self.hosts.by_id[target].coming -= 1
        if self._homes.get(resident.sandbox_id) != host.worker_id:
            self.hosts.give_back(target, resident.request.resources)  # it ended on its way
        else:
            self.hosts.release(host.worker_id, resident.sandbox_id)
            self.hosts.take(target, resident.sandbox_id, resident.request)
            self._homes[resident.sandbox_id] = target
            self.tally.migrations += 1
            self.tally.migrated_mib += resident.request.resources.memory_mib
        self._serve_queue()
        if host.drained_by is not None:
            self._move_more(host)
