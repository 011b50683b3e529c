"""What makes things go wrong while the trouble lasts, and puts all right at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from sandfleet.model.errors import Conflict, NotFound
from sandfleet.testing.memory.link import DirectLink
from sandfleet.testing.memory.workers import MemoryWorkerStore
from sandfleet.testing.simulation.clients import Client
from sandfleet.testing.simulation.host import Host
from sandfleet.testing.simulation.host_beat import HOST_FACTOR
from sandfleet.testing.simulation.replica import Request
from sandfleet.testing.simulation.vm import ARRIVING, DEAD, MOVING, RUNNING

if TYPE_CHECKING:
    from sandfleet.testing.simulation.world import World

LOOK_EVERY_S = 1.0
LOST_WITHIN_S = 60.0
"""By then somebody has said of a host that is no more that it is lost."""
CROWDED_S = 20.0
TAKEN_AFTER_S = 60.0
"""So long after the trouble a machine is taken away of which that was said in it."""
HURRY_S = 8
"""The deadline of a drain in a hurry: what has not moved in half of it is put to sleep."""


class Nemesis:
    """One fault after the other, each undone after a while."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._dice = world.dice("nemesis")
        self._drains = 0
        self._operator = MemoryWorkerStore(world.database, DirectLink())

    async def run(self) -> None:
        """Do harm until the world calls it off."""
        world, dice = self._world, self._dice
        until = world.loop.time() + world.profile.trouble_s
        losing = world.loop.create_task(self._lose_a_host(until))
        while world.loop.time() < until:
            await asyncio.sleep(dice.expovariate(1.0 / world.profile.fault_every_s))
            getattr(self, "_" + dice.choice(world.profile.faults).replace(" ", "_"))()
        await losing
        await self._put_right()

    async def _put_right(self) -> None:
        """End every fault: what is down comes back, what is paused goes on."""
        world = self._world
        world.network.is_calm = True
        world.trace.add("faults", "all is put right")
        for weather in (world.store_weather, world.redis_weather, *world.host_weather.values()):
            weather.is_down = False
        world.objects.is_down = False
        for slot, replica in enumerate(world.replicas):
            if replica.process.is_paused:
                replica.process.resume(world.loop)
            if replica.process.is_dead:
                world.begin_replica(slot)
        for host in world.hosts.values():
            host.neighbours_mib = 0
            if host.process.is_paused:
                host.process.resume(world.loop)
            world.begin_host_again(host)

    def _later(self, after_s: float, undo: Callable[..., object], *args: object) -> None:
        self._world.later(after_s, undo, *args)

    def _note(self, what: str) -> None:
        self._world.trace.add("faults", what)

    # --- replicas

    def _kill_replica(self) -> None:
        slot = self._dice.randrange(len(self._world.replicas))
        replica = self._world.replicas[slot]
        if not replica.process.is_dead:
            self._note(f"kill -9 {replica.process.name}")
            replica.process.kill(self._world.loop)
            self._later(0.5 + 8 * self._dice.random(), self._world.begin_replica_again, slot)

    def _stop_replica(self) -> None:
        slot = self._dice.randrange(len(self._world.replicas))
        replica = self._world.replicas[slot]
        if not replica.process.is_dead and not replica.process.is_paused:
            self._note(f"stop {replica.process.name}")
            replica.stop()
            self._later(1.0 + 4 * self._dice.random(), self._world.begin_replica_again, slot)

    def _pause_replica(self) -> None:
        process = self._dice.choice(self._world.replicas).process
        if not process.is_dead and not process.is_paused:
            seconds = self._dice.choice((0.5, 3.0, 9.0)) * (0.5 + self._dice.random())
            self._note(f"pause {process.name} for {seconds:.1f} s")
            process.pause()
            self._later(seconds, process.resume, self._world.loop)

    # --- workers

    def _host(self) -> Host:
        return self._dice.choice(list(self._world.hosts.values()))

    def _kill_worker(self) -> None:
        host = self._host()
        if host.is_up:
            self._note(f"kill -9 {host.process.name}")
            host.crash()
            self._later(0.3 + 5 * self._dice.random() ** 2, self._world.begin_host_again, host)

    def _pause_worker(self) -> None:
        process = self._host().process
        if not process.is_dead and not process.is_paused:
            seconds = self._dice.choice((0.5, 3.0, 9.0)) * (0.5 + self._dice.random())
            self._note(f"pause {process.name} for {seconds:.1f} s")
            process.pause()
            self._later(seconds, process.resume, self._world.loop)

    def _cut_worker(self) -> None:
        host = self._host()
        weather = self._world.host_weather[host.worker_id]
        self._note(f"cut {host.worker_id} off")
        weather.is_down = True
        self._later(0.5 + 9 * self._dice.random(), setattr, weather, "is_down", False)

    def _drain_worker(self) -> None:
        """An operator empties a worker, and may think better of it; every other time he is in a hurry."""
        host = self._host()
        self._note(f"{host.worker_id} is to be drained")
        self._drains += 1
        self._crowd(list(self._world.hosts.values())[self._drains % len(self._world.hosts)])
        self._order(host, "drain", query=f"deadline_s={HURRY_S}" if self._drains % 2 else "")
        if self._dice.random() < 0.7:
            self._later(1.0 + 10 * self._dice.random(), self._order, host, "undrain")

    def _crowd(self, host: Host) -> None:
        """Something else takes so much of the host's memory that sandboxes must leave, and gives it back."""
        self._note(f"{host.worker_id} is crowded")
        host.neighbours_mib = HOST_FACTOR * host.total.memory_mib - host.committed_mib // 2
        self._later(CROWDED_S, setattr, host, "neighbours_mib", 0)

    def _crowd_worker(self) -> None:
        self._crowd(self._host())

    def _take_machine(self) -> None:
        """Say of one machine when it will be taken away, long after all is put right; or call that off."""
        account = self._world.account
        there = [one for one in account.machines.values() if one.is_up and not one.is_ending]
        if not there or any(one.ends_at for one in there):
            return
        machine = self._dice.choice(there)
        notice_s = TAKEN_AFTER_S + self._world.profile.trouble_s
        machine.ends_at = self._world.now() + timedelta(seconds=notice_s)
        self._note(f"{machine.order.launch_id} is to be taken away in {notice_s:.0f} s")
        if self._dice.random() < 0.3:
            self._later(2 + 10 * self._dice.random(), setattr, machine, "ends_at", None)
        self._later(notice_s, account.take_away, machine)

    def _order(self, host: Host, verb: str, *, query: str = "") -> None:
        world = self._world
        request = Request(
            "POST", f"/admin/workers/{{worker}}/{verb}", {"worker": host.worker_id}, query=query
        )
        operator = Client(world, f"operator-{len(world.chores)}")
        world.chores.append(world.loop.create_task(operator.ask(request)))

    def _machine_dies(self) -> None:
        host = self._host()
        running = [vm for vm in host.vms.values() if vm.state in (RUNNING, MOVING, ARRIVING)]
        if running:
            vm = self._dice.choice(running)
            self._note(f"{vm.sandbox_id} dies on {host.worker_id}")
            vm.state = DEAD

    async def _lose_a_host(self, until: float) -> None:
        """Have somebody take a host for lost: it burns, or is cut off, speaks again and runs what it ran."""
        world, dice = self._world, self._world.dice("lost host")
        if not world.profile.loses_a_host:
            return
        host = dice.choice(list(world.hosts.values()))
        weather = world.host_weather[host.worker_id]
        await asyncio.sleep(dice.uniform(1.0, 6.0))
        if dice.random() < 0.5:
            self._note(f"{host.worker_id} burns")
            host.burn()
            until += LOST_WITHIN_S
        else:
            self._note(f"cut {host.worker_id} off for good")
        while world.loop.time() < until:
            weather.is_down = True
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self._operator.forget(host.worker_id, is_lost=True, actor="operator")
            except (Conflict, NotFound):  # it is not silent yet, or was never heard
                continue
            self._note(f"{host.worker_id} is said to be lost")
            await asyncio.sleep(dice.uniform(0.0, 8.0))
            break
        weather.is_down = False

    # --- what they share

    def _flush_redis(self) -> None:
        self._note("redis is flushed")
        self._world.redis.flush()

    def _redis_away(self) -> None:
        self._away("redis", self._world.redis_weather)

    def _postgres_away(self) -> None:
        self._away("postgres", self._world.store_weather)

    def _objects_away(self) -> None:
        self._away("the object store", self._world.objects)

    def _away(self, name: str, what: object) -> None:
        self._note(f"{name} is away")
        setattr(what, "is_down", True)  # noqa: B010 -- one of several kinds
        self._later(0.3 + 5 * self._dice.random() ** 2, setattr, what, "is_down", False)
