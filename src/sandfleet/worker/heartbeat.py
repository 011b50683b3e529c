"""Heartbeat: tell the control plane what this host holds, and hear what it wants.

Beats come at an interval, and at once after a change; what costs the host or a guest something
to find out is measured at the interval only. When the control plane is away the VMs run on and
the worker keeps trying.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgspec
import psutil
import structlog

from sandfleet import __version__
from sandfleet.adapters.task_group import TaskGroup
from sandfleet.model.errors import SandfleetError
from sandfleet.wire.move_messages import AbandonMove
from sandfleet.wire.worker_messages import Heartbeat, HeartbeatAnswer
from sandfleet.worker.announcements import Announcements
from sandfleet.worker.authentication import FleetTokens
from sandfleet.worker.host import Host
from sandfleet.worker.notice import Notice, read_notice
from sandfleet.worker.operations.fence import fence
from sandfleet.worker.operations.receive_move import abandon_move
from sandfleet.worker.operations.stop import end
from sandfleet.worker.residents import Resident, VmState

log = structlog.get_logger("sandfleet.worker")
_TIMEOUT_S = 5.0
_BACK_OFF_S_MAX = 10.0
_AT_LEAST_BETWEEN_S = 0.25
"""When many sandboxes start, each of them is a change: together they may not cost more than they do."""
_MEASURED_PER_BEAT = 8
_NOT_ENDED = frozenset({VmState.STARTING, VmState.STOPPING, VmState.MOVING})
"""Those that begin or end by themselves, and those whose fate an operation decides."""
_COUNTED_WITHIN_S = 0.5
"""A guest that does not answer must not hold up the beat."""


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What does not change while the process runs."""

    worker_id: str
    machine_id: str
    region: str
    cpu_model: str
    http_url: str
    total_memory_mib: int
    total_cpu: int
    total_disk_mib: int
    data_dir: str
    control_url: str
    join_token: str = field(repr=False)
    worker_version: str = __version__
    interval_s: float = 2.0
    notice_file: Path | None = None


class HeartbeatSender:
    """Composes and sends the beats of one process."""

    def __init__(
        self,
        host: Host,
        facts: WorkerFacts,
        tokens: FleetTokens,
        *,
        session: aiohttp.ClientSession,
        announcements: Announcements | None = None,
    ) -> None:
        self._host = host
        self._facts = facts
        self._tokens = tokens
        self._session = session
        self._announcements = announcements
        self._instance_id = os.urandom(8).hex()
        self._sequence = 0
        self._interval_s = facts.interval_s
        self._named_before: frozenset[str] = frozenset()
        self._measure_from = 0

    async def run(self) -> None:
        """Beat for as long as the worker runs."""
        failures, measured_s = 0, -math.inf
        while True:
            self._host.changed.clear()
            now_s = self._host.clock.monotonic()
            is_due = now_s - measured_s >= self._interval_s
            measured_s = now_s if is_due else measured_s
            failures = 0 if await self.beat(measuring=is_due) else failures + 1
            if failures:
                await self._host.clock.sleep(
                    min(_BACK_OFF_S_MAX, self._interval_s * 2 ** min(failures - 1, 4))
                )
                continue
            await self._host.clock.sleep(_AT_LEAST_BETWEEN_S)
            await _wait_set(self._host.changed, timeout_s=self._interval_s)

    async def beat(self, *, measuring: bool = True) -> bool:
        """Send one beat and take the answer in; say whether it arrived."""
        try:
            if measuring:
                await self._measure()
            answer = await self._post(self._compose())
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as error:
            log.warning("heartbeat_failed", reason=f"{type(error).__name__}: {error}")
            return False
        try:
            self._tokens.learn(public_keys=answer.public_keys, term=answer.term)
        except ValueError as error:
            log.error("public_keys_refused", reason=str(error))
        self._interval_s = min(60.0, max(0.1, answer.heartbeat_interval_s))
        if self._host.is_cordoned != answer.cordoned:
            self._host.is_cordoned = answer.cordoned
            self._host.pool.poke()
        if answer.gone:
            fence(self._host, answer.over)
        self._end_quarantined(answer.quarantined)
        return True

    def _compose(self) -> Heartbeat:
        host, facts = self._host, self._facts
        self._sequence += 1
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(facts.data_dir)
        notice = self._notice()
        return Heartbeat(
            worker_id=facts.worker_id,
            instance_id=self._instance_id,
            sequence=self._sequence,
            machine_id=facts.machine_id,
            region=facts.region,
            http_url=facts.http_url,
            worker_version=facts.worker_version,
            accelerator=host.accelerator,
            cpu_model=facts.cpu_model,
            templates={name: info.version for name, info in host.templates.items()},
            total_memory_mib=facts.total_memory_mib,
            total_cpu=facts.total_cpu,
            total_disk_mib=facts.total_disk_mib,
            memory_used_mib=int((memory.total - memory.available) // 2**20),
            cpu_percent=psutil.cpu_percent(interval=None),
            disk_used_mib=int((disk.total - disk.free) // 2**20),
            host_memory_mib=int(memory.total // 2**20),
            host_cpus=os.cpu_count() or 0,
            host_disk_mib=int(disk.total // 2**20),
            ends_in_s=notice.ends_in_s if notice else None,
            ends_because=notice.because if notice else "",
            warm=len(host.pool),
            exec_sessions=sum(resident.running_execs for resident in host.residents),
            stopping=host.is_stopping,
            vms=[resident.status() for resident in host.residents] if host.is_adopted else None,
        )

    def _notice(self) -> Notice | None:
        """Return the earlier of what the file and the cloud say."""
        now = self._host.clock.now()
        said = [read_notice(self._facts.notice_file, now=now)]
        if self._announcements is not None:
            said.append(self._announcements.notice(now=now))
        return min((one for one in said if one), key=lambda one: one.ends_in_s, default=None)

    async def _post(self, beat: Heartbeat) -> HeartbeatAnswer:
        url = f"{self._facts.control_url.rstrip('/')}/internal/workers/{beat.worker_id}/heartbeat"
        async with self._session.post(
            url,
            data=msgspec.json.encode(beat),
            headers={"Authorization": f"Bearer {self._facts.join_token}", "Content-Type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
        ) as response:
            response.raise_for_status()
            return msgspec.json.decode(await response.read(), type=HeartbeatAnswer)

    async def _measure(self) -> None:
        """Measure the memory of some VMs, in turns: reading a VM's page table costs milliseconds."""
        running = [resident for resident in self._host.residents if resident.state is VmState.RUNNING]
        turn = _in_turns(running, self._measure_from, _MEASURED_PER_BEAT)
        for resident in turn:
            if resident.machine is None:
                continue
            try:
                memory_mib = await resident.machine.memory_used_mib()
                usage, at_s = await resident.machine.usage(), self._host.clock.monotonic()
                resident.measured.note(memory_mib=memory_mib, usage=usage, at_s=at_s)
            except (SandfleetError, OSError) as error:
                log.info("not_measured", sandbox=resident.sandbox_id, reason=str(error))
        self._measure_from += _MEASURED_PER_BEAT
        async with TaskGroup() as group:
            for resident in turn:
                # To ask wakes a guest that may be asleep: only where the answer can have changed.
                if resident.running_execs or resident.counted_uses != resident.uses:
                    group.create_task(_count_execs(resident))

    def _end_quarantined(self, named: Sequence[str]) -> None:
        """Stop VMs that no row owns, once two answers in a row have named them."""
        names = frozenset(named)
        for sandbox_id in names & self._named_before:
            resident = self._host.residents.find(sandbox_id)
            if resident is None or resident.state in _NOT_ENDED:
                continue
            log.warning("quarantined_vm_removed", sandbox=sandbox_id, epoch=resident.epoch)
            self._host.background.start(_removed(self._host, resident), name=f"quarantine {sandbox_id}")
        self._named_before = names


async def _removed(host: Host, resident: Resident) -> None:
    """End it. A place without a promise never was the sandbox's: its epoch may come yet."""
    if resident.state is VmState.ARRIVING and resident.arrival is not None:
        await abandon_move(host, resident.arrival.move_id, AbandonMove())
    else:
        await end(host, resident)


async def _count_execs(resident: Resident) -> None:
    """Ask the guest what runs; one that does not answer in time keeps its last count."""
    uses = None if resident.in_flight else resident.uses  # what is in flight may start one after the answer
    try:
        async with asyncio.timeout(_COUNTED_WITHIN_S):
            execs = await resident.glance().guest.list_execs()
    except (SandfleetError, OSError, TimeoutError):
        return
    resident.running_execs = sum(one.running for one in execs)
    resident.counted_uses = uses


def _in_turns(residents: Sequence[Resident], first: int, count: int) -> list[Resident]:
    """Return `count` of them from `first` on, round and round."""
    if len(residents) <= count:
        return list(residents)
    return [residents[(first + place) % len(residents)] for place in range(count)]


async def _wait_set(event: asyncio.Event, *, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return


def cpu_model() -> str:
    """Return the host's CPU by name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as facts:
            names = (line.partition(":")[2].strip() for line in facts if line.startswith("model name"))
            return next(names, "unknown")
    except OSError:
        return "unknown"
