"""One seed's world: replicas, hosts, clients and faults on one loop, from the first step to the last rest."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

from pydantic import SecretStr

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.settings import ControlPlaneSettings
from sandfleet.model.errors import SandfleetError
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.resources import Resources
from sandfleet.testing.builders import ORGANISATION, an_organisation
from sandfleet.testing.memory.coordination import (
    MemoryLeaseStore,
    MemoryRedis,
    MemoryRouteCache,
    MemoryWakeUps,
)
from sandfleet.testing.memory.wiring import memory_stores
from sandfleet.testing.simulation.artefacts import SimulatedSnapshotStore
from sandfleet.testing.simulation.clients import Client, Known
from sandfleet.testing.simulation.clock import VirtualClock
from sandfleet.testing.simulation.data_calls import SimulatedDataPlane
from sandfleet.testing.simulation.guest_use import GuestUses
from sandfleet.testing.simulation.host import Host
from sandfleet.testing.simulation.host_moves import Moves
from sandfleet.testing.simulation.host_saves import Saves
from sandfleet.testing.simulation.invariants import Findings, WatchedDatabase, WorldWatcher
from sandfleet.testing.simulation.loop import WORLD, Process, VirtualLoop
from sandfleet.testing.simulation.machines import (
    POOL,
    ROLLOUT_POLICY,
    MachineAccount,
    SimulatedMachinePool,
    policy_of,
)
from sandfleet.testing.simulation.move_calls import SimulatedMoveClient
from sandfleet.testing.simulation.nemesis import Nemesis
from sandfleet.testing.simulation.network import CacheLink, Network, StoreLink, Weather
from sandfleet.testing.simulation.profile import Profile, profile_of
from sandfleet.testing.simulation.replica import Replica, Request, Response
from sandfleet.testing.simulation.rest import check_rest, end_everything, unsettled, until_rest
from sandfleet.testing.simulation.rollouts import FIRST, Promotion, afflict
from sandfleet.testing.simulation.trace import Trace
from sandfleet.testing.simulation.vm import ObjectStore
from sandfleet.testing.simulation.worker_calls import SimulatedWorkerClient

BEAT_EVERY_S = 2.0
FALLS_S = 60.0
"""How long the fleet has to see that the load has fallen, where it has workers by itself."""
UNWIND_S = 5.0
"""How long everything that was killed has to come out of its last wait."""


@dataclass(frozen=True, slots=True)
class Mutations:
    """What a test breaks on purpose, to see that the simulation finds it."""

    database: type[WatchedDatabase] = WatchedDatabase
    settings: dict[str, Any] = field(default_factory=dict)
    profile: dict[str, Any] = field(default_factory=dict)
    """What is otherwise than the seed says."""
    host: type[Host] = Host


def settings_of(profile: Profile, changes: dict[str, Any]) -> ControlPlaneSettings:
    """Return short times, so that a few minutes hold every deadline."""
    given: dict[str, Any] = {
        "postgres_url": SecretStr("memory"),
        "redis_url": SecretStr("memory"),
        "master_secret": SecretStr("5a" * 32),
        "bootstrap_key": SecretStr("bootstrap-key-of-the-simulation"),
        "join_token": SecretStr("join-token-of-the-simulation"),
        "public_url": "http://fleet",
        "blob_store_url": "memory:" if profile.has_objects else None,
        "operation_lease_s": 4.0,
        "leader_lease_s": 6.0,
        "loop_interval_s": 1.0,
        "autoscale_interval_s": 2.0,
        "autoscale_shrink_after_s": 4.0,
        "create_deadline_s": 20.0,
        "save_deadline_s": 30.0,
        "creation_queue_s": 6.0,
        "answer_by_s": 8.0,
        "sandbox_wait_s": 15.0,
        "worker_silent_s": 6.0,
        "worker_lost_s": 70.0,
    }
    return ControlPlaneSettings.model_construct(**{**given, **changes})


class World:
    """Everything that there is."""

    def __init__(self, seed: int, *, mutations: Mutations | None = None) -> None:
        self.seed = seed
        self._mutations = mutations or Mutations()
        self.profile = replace(profile_of(seed), **self._mutations.profile)
        self.loop = VirtualLoop()  # type: ignore[abstract]
        self.trace = Trace(self.loop.time)
        self.findings = Findings(self.trace)
        self.network = Network(self.loop, self.dice("network"))
        self._settings = settings_of(self.profile, self._mutations.settings)
        self._clock = clock = VirtualClock(self.loop)
        self.objects = ObjectStore()
        self.hosts: dict[WorkerId, Host] = {}
        self.moves: dict[WorkerId, Moves] = {}
        self.chores: list[asyncio.Task[Any]] = []
        """What operators have asked for and is not answered yet."""
        self.database = self._mutations.database(now=clock.now)
        self.uses = GuestUses(seed, self.loop.time, lambda: self.network.is_calm)
        self.database.watch(self)
        self.store_weather, self.redis_weather = self.profile.store, self.profile.redis
        self.host_weather: dict[WorkerId, Weather] = {}
        self.redis = MemoryRedis(self.loop.time, deliver=self._deliver)
        self.replicas: list[Replica] = []
        self.database.replicas = self.replicas
        worker = self.profile.worker
        self.account = MachineAccount(
            self, Weather(worker.lost, worker.unanswered, worker.late, worker.twice)
        )
        self.clients: list[Client] = []
        self.known: list[Known] = []
        """What all clients know of sandboxes: each works with those of all."""
        self._answers: dict[str, tuple[int, Any]] = {}
        self._born = 0
        self._ended: list[Process] = []
        """Of replicas that are no more: what ran in them must have come to its end."""
        self._is_over = False
        self._clock_dice = self.dice("clocks")

    def now(self) -> datetime:
        """Return the time of the database's clock."""
        return self._clock.now()

    def dice(self, name: str) -> random.Random:
        """Return dice of their own for one part, so that parts do not shift each other's throws."""
        return random.Random(f"{self.seed} {name}")

    def run(self) -> None:
        """Run from the beginning to the end; what is wrong stands in `findings`."""
        self.loop.run_until_complete(self._story())

    async def _story(self) -> None:
        self.database.organisations[ORGANISATION] = an_organisation()
        self._make_hosts()
        for slot in range(self.profile.replicas):
            self.begin_replica(slot)
        await asyncio.sleep(0.5)
        self.clients = [Client(self, f"client-{number}") for number in range(self.profile.clients)]
        work = [self.loop.create_task(client.run()) for client in self.clients]
        Promotion(self).begin()
        await Nemesis(self).run()
        await until_rest(
            self, "every client is answered", lambda: [] if _are_done([*work, *self.chores]) else ["a client"]
        )
        for task in work:
            self._look_at_end(task)
        if self.profile.has_pool:
            await asyncio.sleep(FALLS_S)
        if not self.findings.violations:
            await until_rest(self, "everything is settled", lambda: unsettled(self))
            check_rest(self)
            await end_everything(self)
        self._is_over = True
        self._end_processes()
        await asyncio.sleep(UNWIND_S)
        for process in (*self._ended, *(host.process for host in self.hosts.values())):
            self.findings.require(not process.tasks, f"{process.name} was killed and never ends")

    def _look_at_end(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        if task.done() and not task.cancelled() and task.exception() is not None:
            self.findings.found(f"a client ended with {task.exception()!r}")

    def _end_processes(self) -> None:
        for replica in self.replicas:
            replica.process.kill(self.loop)
            self._ended.append(replica.process)
        for host in self.hosts.values():
            host.process.kill(self.loop)

    # --- making

    def _make_hosts(self) -> None:
        if self.profile.has_rollout:
            self.account.begin_with(self.profile.hosts)
            return
        for number in range(self.profile.hosts):
            self.add_host(WorkerId(f"wk-{number}"))

    def add_host(self, worker_id: WorkerId, *, machine_id: str = "", version: str = FIRST) -> None:
        """Have one more host, and start its worker."""
        if self._is_over:
            return
        watcher = WorldWatcher(self.findings, self.database, self.hosts)
        total = Resources(self.profile.host_memory_mib, 64, 10**9)
        host = self._mutations.host(worker_id, self.loop, self.dice(worker_id), total, self.objects, watcher)
        host.machine_id, host.version = machine_id, version
        host.used_mib = self.uses.used_mib
        Saves(host)
        self.moves[worker_id] = Moves(host, self.hosts)
        self.hosts[worker_id] = host
        weather = self.profile.worker
        self.host_weather[worker_id] = Weather(weather.lost, weather.unanswered, weather.late, weather.twice)
        self.begin_host(host)
        afflict(self, host)

    def begin_host(self, host: Host) -> None:
        """Start its worker."""
        host.begin()
        self.trace.add(host.process.name, "begins")
        host.process.start(self.loop, self._beats(host), name="heartbeats")

    def begin_host_again(self, host: Host) -> None:
        """Start its worker if it is not there and there is a host to start it on."""
        if not host.is_up and not host.is_burnt and not self._is_over:
            self.begin_host(host)

    def begin_replica_again(self, slot: int) -> None:
        """Start the replica of that place if there is none, or make way for it."""
        replica = self.replicas[slot]
        if self._is_over or replica.process.is_paused or not (replica.process.is_dead or replica.is_stopping):
            return
        if not replica.process.is_dead:
            replica.process.kill(self.loop)
        self.begin_replica(slot)

    def begin_replica(self, slot: int) -> None:
        """Start a replica at that place."""
        self._born += 1
        process = Process(f"replica-{slot}.{self._born}")
        self.trace.add(process.name, "begins")
        replica = Replica(self._plane(process), process, self.loop)
        if slot < len(self.replicas):
            self._ended.append(self.replicas[slot].process)
            self.replicas[slot] = replica
        else:
            self.replicas.append(replica)

    def _plane(self, process: Process) -> ControlPlane:
        wrong_by_s = self.profile.wrong_clock_s * (2 * self._clock_dice.random() - 1)
        cache = CacheLink(self.network, process, self.redis_weather)
        workers = SimulatedWorkerClient(self.network, process, self.hosts, self.host_weather)
        blobs = SimulatedSnapshotStore(self.network, process, self.objects, self._forgotten)
        return ControlPlane(
            settings=self._settings,
            clock=VirtualClock(self.loop, wrong_by_s=wrong_by_s),
            replica_id=process.name,
            stores=memory_stores(self.database, StoreLink(self.network, process, self.store_weather)),
            routes=MemoryRouteCache(self.redis, cache),
            leases=MemoryLeaseStore(self.redis, cache),
            wake_ups=MemoryWakeUps(self.redis, cache, name=process.name),
            worker_client=workers,
            move_client=SimulatedMoveClient(workers, self.moves),
            public_keys={},
            blobs=blobs if self.profile.has_objects else None,
            pools={POOL: SimulatedMachinePool(self.account, process)} if self.profile.has_pool else {},
            capacity=policy_of(self.profile) if self.profile.has_pool else None,
            rollout=ROLLOUT_POLICY,
            data_plane=SimulatedDataPlane(workers),
        )

    # --- what happens between them

    def later(self, after_s: float, what: Callable[..., Any], *arguments: Any) -> None:
        """Do it then, in nobody's process."""
        self.loop.call_later(after_s, what, *arguments, context=WORLD)

    def _deliver(self, listener: Callable[[str], None], topic: str) -> None:
        if not self.network.happens(self.redis_weather.lost):
            self.later(self.network.delay_s(self.redis_weather), listener, topic)

    async def _beats(self, host: Host) -> None:
        dice = self.dice(f"beats of {host.process.name}")
        weather = self.host_weather[host.worker_id]
        while True:
            serving = [replica for replica in self.replicas if replica.is_serving]
            if serving:
                try:
                    heard = partial(dice.choice(serving).heard, host.beat())
                    answer = await self.network.post(host.process, weather, heard, patience_s=BEAT_EVERY_S)
                    host.learn(answer)
                except (OSError, TimeoutError, SandfleetError):
                    self.trace.add(host.process.name, "is not heard")
                except Exception as error:
                    self.findings.found(f"the heartbeats of {host.worker_id} ended with {error!r}")
                    raise
            await asyncio.sleep(BEAT_EVERY_S)

    async def write(self, worker_id: WorkerId, sandbox_id: SandboxId, epoch: int) -> int:
        """Have a user's write reach the guest; return how many there are by now."""
        host = self.hosts[worker_id]

        def work() -> int:
            if not host.is_up or host.process.is_paused:
                raise ConnectionResetError
            return host.write(sandbox_id, epoch)

        written: int = await self.network.post(None, self.host_weather[worker_id], work, patience_s=3.0)
        return written

    def _forgotten(self, snapshot_id: str) -> None:
        why = self.database.why_needed(snapshot_id)
        self.trace.add("objects", f"{snapshot_id} is removed")
        self.findings.require(why is None, f"{snapshot_id} is removed, and needed by {why}")

    def answered(self, request: Request, answer: Response) -> None:
        """Compare with what the same request was answered before: one key, one result."""
        code = (answer.body or {}).get("code")
        self.findings.require(answer.status != 500, f"{request.path} was answered 500 {code}")
        if request.key is None or answer.status >= 500 or answer.status == 429:
            return
        before = self._answers.setdefault(request.key, (answer.status, answer.body))
        self.findings.require(
            before == (answer.status, answer.body),
            f"key {request.key} was answered {before[0]} {before[1]} and {answer.status} {answer.body}",
        )


def _are_done(work: list[asyncio.Task[None]]) -> bool:
    return all(task.done() for task in work)
