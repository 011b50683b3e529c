"""Sending a machine to another host: its disks until they are in step, its memory, then the hand-over.

Order, so that the guest can go on here until the last step:
1. the disks are copied, and every write goes to both sides;
2. the memory: in rounds while the guest runs, or at once while it stands still;
3. the guest stands still, the disks are in step for good;
4. the target gets the devices, and all memory or the right to ask for it.
Before 4 whatever fails lets the guest run on. During 4 only QEMU knows: `MoveUndecided`.

What if this process dies
    before 4   the next one calls the machine back
    during 4   the next one keeps it still until it is told what counts
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
from qemu.qmp import EventListener

from sandfleet.adapters.qemu import chains, memory, mirror, move_keys
from sandfleet.adapters.qemu.cut import cut_connections
from sandfleet.adapters.qemu.host import Host
from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.adapters.qemu.manifest import write_manifest
from sandfleet.adapters.qemu.migration import BYTES_PER_S_MAX, prepare_move
from sandfleet.adapters.qemu.qmp import Qmp, event_or_pause
from sandfleet.adapters.qemu.stay import OVER, is_handed_over, migrate_status, stay
from sandfleet.model.errors import Conflict, GuestUnresponsive, HypervisorFailed, MoveUndecided
from sandfleet.model.move import Course, MoveGround, MoveSample, MoveVerdict, Way
from sandfleet.ports.moves import Pilot
from sandfleet.wire.move_manifest import Landing

LOOK_EVERY_S = 0.05
HAND_OVER_ROUNDS_MAX = 300
DOWNTIME_MS_UNDECIDED = 1
"""So that QEMU does not stop the guest by itself before it was decided."""
DOWNTIME_MS_DECIDED = 500
THROTTLE_STEP = 20
CONNECT_TIMEOUT_S = 10.0
_WIRE = "move-memory"


@dataclass(slots=True)
class _Watch:
    """All samples so far, and since when nothing has moved."""

    began_s: float
    samples: list[MoveSample] = field(default_factory=list)
    moved: int = -1
    moved_at_s: float = 0.0
    is_handing_over: bool = False
    wire: socket.socket | None = None
    """The connection by which the memory goes, if QEMU was given it."""
    cutting: Callable[[], object] = lambda: None

    def cut(self) -> None:
        """End the connections by which the memory goes, whatever QEMU does with them."""
        with suppress(OSError):  # the target has ended them
            self.cutting()

    def note(self, now_s: float, sample: Mapping[str, Any]) -> None:
        """Add one sample."""
        transferred = int(sample["transferred_bytes"])
        if transferred != self.moved:
            self.moved, self.moved_at_s = transferred, now_s
        self.samples.append(
            MoveSample(elapsed_s=now_s - self.began_s, silent_s=now_s - self.moved_at_s, **sample)
        )


async def send(host: Host, machine: QemuMachine, landing: Landing, *, move_id: str, pilot: Pilot) -> None:
    """Return when the target has all it needs to run."""
    if machine.manifest.move_id not in ("", move_id):
        raise Conflict(f"machine {machine.manifest.machine_id} is moving already", code="busy")
    async with machine.changing:
        await chains.shorten(host, machine, layers_max=1)
        await _mark(host, machine, move_id)
        watch = _Watch(asyncio.get_running_loop().time())
        try:
            await _depart(host, machine, landing, pilot=pilot, watch=watch)
        except BaseException as error:
            if not await machine.is_alive():
                raise
            if watch.is_handing_over and await _may_have_gone(machine):
                raise MoveUndecided(f"the hand-over was interrupted: {error}") from error
            watch.cut()
            await _call_back(host, machine, why=error)
            raise
        finally:
            if watch.wire is not None:
                watch.wire.close()


async def _call_back(host: Host, machine: QemuMachine, *, why: BaseException) -> None:
    """Let the guest run on here; one that cannot be made to stands still, and is not taken for running."""
    try:
        await stay(host, machine)
    except (HypervisorFailed, GuestUnresponsive) as error:
        raise MoveUndecided(f"the guest does not run on yet: {error.message}") from why


async def _may_have_gone(machine: QemuMachine) -> bool:
    """Whether the target may have what it needs; a QEMU that does not answer does not say that it has not."""
    try:
        return await is_handed_over(machine.monitor)
    except HypervisorFailed:
        return True


async def _mark(host: Host, machine: QemuMachine, move_id: str) -> None:
    leaving = msgspec.structs.replace(machine.manifest, move_id=move_id)
    directory = host.directory(leaving.machine_id)
    await asyncio.to_thread(write_manifest, directory, leaving, durable=True)
    machine.manifest = leaving


async def _depart(host: Host, machine: QemuMachine, landing: Landing, *, pilot: Pilot, watch: _Watch) -> None:
    qmp, manifest = machine.monitor, machine.manifest
    memory_mib = await memory.current(qmp, manifest.shape)
    may_run = memory.are_writes_seen(manifest.shape, memory_mib)
    way = pilot.way(MoveGround(may_run, landing.may_post_copy))
    await move_keys.add_credentials(
        qmp,
        host.directory(manifest.machine_id),
        uid=manifest.uid,
        key=landing.key,
        endpoint=move_keys.SENDING,
    )
    await mirror.begin(qmp, manifest, landing, bytes_per_s_max=pilot.bytes_per_s_max)
    await host.faults.at("send.mirroring")
    await _in_step(qmp, watch, pilot)
    await host.faults.at("send.in_step")
    await prepare_move(qmp, _capabilities(landing, pilot), _parameters(landing, pilot))
    with qmp.listen("MIGRATION") as moves:
        if way is not Way.PRECOPY:
            await _stand_still(machine, pilot)
        uri = await _wire(machine, landing, watch, may_follow=_may_follow(landing, pilot))
        await qmp.execute_when_ready("migrate", {"uri": uri})
        if way is Way.POST_COPY:
            await qmp.execute("migrate-start-postcopy")
        await host.faults.at("send.copying")
        await _Precopy(machine, pilot, watch, is_still=way is not Way.PRECOPY).until_paused(moves)
        await host.faults.at("send.paused")
        await mirror.finish(qmp)
        await host.faults.at("send.drained")
        watch.is_handing_over = True
        await qmp.execute("migrate-continue", {"state": "pre-switchover"})
        await _handed_over(qmp, moves)
        await host.faults.at("send.handed_over")


async def _wire(machine: QemuMachine, landing: Landing, watch: _Watch, *, may_follow: bool) -> str:
    """Connect to the target and hand that over, keeping an end by which it is cut.

    QEMU stands still as a whole while it waits for the target's first word, and cannot be told to stop.
    A memory that may follow its guest, or goes by several connections, needs those that QEMU makes by itself.
    """
    if may_follow or landing.channels:
        name = f"[{landing.host}]" if ":" in landing.host else landing.host
        pid, port = machine.facts.pid, landing.memory_port
        watch.cutting = lambda: cut_connections(pid, host=landing.host, port=port)
        return f"tcp:{name}:{landing.memory_port}"
    wire = watch.wire = socket.socket(socket.AF_INET6 if ":" in landing.host else socket.AF_INET)
    wire.setblocking(False)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await asyncio.get_running_loop().sock_connect(wire, (landing.host, landing.memory_port))
    except (OSError, TimeoutError) as error:
        raise HypervisorFailed(f"the target is not reached: {error!r}") from error
    watch.cutting = lambda: wire.shutdown(socket.SHUT_RDWR)
    await machine.monitor.give_socket(wire.fileno(), name=_WIRE)
    return f"fd:{_WIRE}"


async def _in_step(qmp: Qmp, watch: _Watch, pilot: Pilot) -> None:
    """Return when both disks are the same here and there, up to what is being written."""
    loop = asyncio.get_running_loop()
    with qmp.listen(*mirror.EVENTS) as events:
        while True:
            jobs = (await mirror.jobs(qmp)).values()
            if all(job["ready"] for job in jobs):
                return
            done, total = (sum(int(job[name]) for job in jobs) for name in ("offset", "len"))
            watch.note(loop.time(), _disk_sample(done, total))
            _refuse(pilot.course(watch.samples))
            await event_or_pause(events, LOOK_EVERY_S)


@dataclass(slots=True)
class _Precopy:
    """The memory on its way, until the guest stands still and nothing but the hand-over is left."""

    machine: QemuMachine
    pilot: Pilot
    watch: _Watch
    is_still: bool
    throttle: int = 1
    decided_in: int = 0
    """The round in which it was decided to switch over; 0 before."""

    async def until_paused(self, moves: EventListener) -> None:
        """Return at the point from which on there is no way back."""
        qmp, loop = self.machine.monitor, asyncio.get_running_loop()
        while True:
            described = await qmp.execute("query-migrate")
            status = described.get("status")
            if status == "pre-switchover":
                break
            if status in OVER:
                raise HypervisorFailed(
                    f"the memory could not be copied: {described.get('error-desc', status)}"
                )
            await mirror.jobs(qmp)  # a target that no longer takes writes gets no memory either
            # Before the target has answered QEMU says nothing of the memory: that is silence as well.
            sample = _memory_sample(described) if "ram" in described else _NO_MEMORY
            self.watch.note(loop.time(), sample)
            await self._follow(self.pilot.course(self.watch.samples))
            await event_or_pause(moves, LOOK_EVERY_S)
        await self._still()

    async def _follow(self, verdict: MoveVerdict) -> None:
        qmp = self.machine.monitor
        _refuse(verdict)
        if self.is_still:
            await self._insist()
            return
        if verdict.course is Course.THROTTLE:
            self.throttle = min(99, self.throttle + THROTTLE_STEP)
            slower = {
                "cpu-throttle-initial": self.throttle,
                "cpu-throttle-increment": THROTTLE_STEP,
                "max-cpu-throttle": self.throttle,
            }
            await qmp.execute("migrate-set-parameters", slower)
        elif verdict.course is Course.SWITCH:
            await self._still()
            self.decided_in = self.watch.samples[-1].round
            await qmp.execute("migrate-set-parameters", {"downtime-limit": DOWNTIME_MS_DECIDED})
        elif verdict.course is Course.POST_COPY:
            await self._still()
            await qmp.execute("migrate-start-postcopy")

    async def _insist(self) -> None:
        """Stop a guest that writes more than was foreseen: nobody is let in, and it would not be over."""
        if self.decided_in and self.watch.samples[-1].round > self.decided_in + 1:
            self.decided_in = 0
            await _stop(self.machine)

    async def _still(self) -> None:
        if not self.is_still:
            await _leave_guest(self.machine, self.pilot)
            self.is_still = True


async def _stand_still(machine: QemuMachine, pilot: Pilot) -> None:
    await _leave_guest(machine, pilot)
    await _stop(machine)


async def _stop(machine: QemuMachine) -> None:
    await machine.monitor.execute("stop")
    status = (await machine.monitor.execute("query-status"))["status"]
    if status != "paused":  # the host's disk is full: it would run on by itself as soon as there is room
        raise HypervisorFailed(f"the guest cannot leave now: it is {status}")


async def _leave_guest(machine: QemuMachine, pilot: Pilot) -> None:
    """Shut everybody out and end the session with the agent: what is saved has none in it."""
    pilot.switching()
    if machine.sessions is not None and machine.sessions.guest is not None:
        guest, machine.sessions.guest = machine.sessions.guest, None
        await guest.close()


async def _handed_over(qmp: Qmp, moves: EventListener) -> None:
    """Return when the source has nothing more to say about whether it worked."""
    for _ in range(HAND_OVER_ROUNDS_MAX):
        status = await migrate_status(qmp)
        if status in ("completed", "postcopy-active"):
            return
        if status in ("failed", "cancelled"):
            raise HypervisorFailed(f"the hand-over has {status}")
        await event_or_pause(moves, LOOK_EVERY_S)
    raise HypervisorFailed("the hand-over does not end")


def _refuse(verdict: MoveVerdict) -> None:
    if verdict.course is Course.ABORT:
        raise HypervisorFailed(verdict.reason)


def _may_follow(landing: Landing, pilot: Pilot) -> bool:
    return landing.may_post_copy and pilot.may_post_copy


def _capabilities(landing: Landing, pilot: Pilot) -> list[str]:
    wanted = ["auto-converge", "events", "pause-before-switchover", "return-path"]
    if landing.channels:
        return [*wanted, "multifd"]
    return [*wanted, "postcopy-ram", "postcopy-preempt"] if _may_follow(landing, pilot) else wanted


def _parameters(landing: Landing, pilot: Pilot) -> dict[str, Any]:
    several = {"multifd-channels": landing.channels} if landing.channels else {}
    return {
        **several,
        "tls-creds": move_keys.CREDENTIALS,
        "max-bandwidth": min(BYTES_PER_S_MAX, pilot.bytes_per_s_max or BYTES_PER_S_MAX),
        "max-postcopy-bandwidth": 0,
        "downtime-limit": DOWNTIME_MS_UNDECIDED,
        "cpu-throttle-initial": 1,
        "cpu-throttle-increment": 1,
        "max-cpu-throttle": 1,
    }


def _disk_sample(done: int, total: int) -> dict[str, Any]:
    return {
        "round": 0,
        "transferred_bytes": done,
        "remaining_bytes": max(0, total - done),
        "dirty_bytes_per_s": 0,
        "bandwidth_bytes_per_s": 0,
        "downtime_ms_expected": 0.0,
    }


_NO_MEMORY: Mapping[str, Any] = {**_disk_sample(0, 0), "round": 1, "downtime_ms_expected": 1e9}


def _memory_sample(described: dict[str, Any]) -> dict[str, Any]:
    ram = described["ram"]
    bandwidth = int(float(ram.get("mbps", 0)) * 1_000_000 / 8)
    remaining = int(ram["remaining"])
    return {
        "round": max(1, int(ram.get("dirty-sync-count", 1))),
        "transferred_bytes": int(ram["transferred"]),
        "remaining_bytes": remaining,
        "dirty_bytes_per_s": int(ram.get("dirty-pages-rate", 0)) * int(ram.get("page-size", 4096)),
        "bandwidth_bytes_per_s": bandwidth,
        "downtime_ms_expected": 1000 * remaining / bandwidth if bandwidth else 1e9,
        "throttle_percent": int(described.get("cpu-throttle-percentage", 0)),
    }
