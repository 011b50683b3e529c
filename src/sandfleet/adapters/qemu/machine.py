"""The `Machine` port: one QEMU of this host."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from socket import socket

import msgspec

from sandfleet.adapters.qemu import erase as erasing
from sandfleet.adapters.qemu import memory, processors
from sandfleet.adapters.qemu.full_disk import RoomForWrites
from sandfleet.adapters.qemu.host import Host, limits
from sandfleet.adapters.qemu.launch import log_tail
from sandfleet.adapters.qemu.manifest import Manifest, write_manifest
from sandfleet.adapters.qemu.process import ProcessHandle, cpu_seconds, is_running, memory_used_mib
from sandfleet.adapters.qemu.qmp import Qmp
from sandfleet.adapters.task_group import TaskGroup
from sandfleet.adapters.thread_work import to_its_end
from sandfleet.model.errors import GuestUnresponsive, HypervisorFailed
from sandfleet.ports.guest import Guest
from sandfleet.ports.hypervisor import MachineFacts, MachineUsage
from sandfleet.ports.network import NetworkSeat
from sandfleet.wire.qemu_command import DATA_DRIVE


@dataclass(slots=True)
class Sessions:
    """The open ends towards a running machine."""

    handle: ProcessHandle
    qmp: Qmp | None
    guest: Guest | None


@dataclass(slots=True)
class QemuMachine:
    """One machine. `sessions` is None when its QEMU had ended before it was found."""

    host: Host
    manifest: Manifest
    sessions: Sessions | None
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whoever changes the machine's sizes or saves it."""
    room: RoomForWrites = field(default_factory=RoomForWrites)

    @property
    def facts(self) -> MachineFacts:
        """What the manifest says."""
        return self.manifest.facts()

    @property
    def guest(self) -> Guest:
        """The session with the agent inside; `GuestUnresponsive` when there is none."""
        if self.sessions is None or self.sessions.guest is None:
            raise GuestUnresponsive(f"machine {self.manifest.machine_id} has no session with its agent")
        return self.sessions.guest

    async def assign(self, owner: str, *, epoch: int) -> None:
        """Write durably to whom the machine belongs; from then on adoption reports it."""
        fresh = msgspec.structs.replace(self.manifest, owner=owner, epoch=epoch)
        directory = self.host.directory(self.manifest.machine_id)
        writing = partial(write_manifest, directory, fresh, durable=True)
        await to_its_end(asyncio.get_running_loop().run_in_executor(None, writing))
        self.manifest = fresh

    async def is_alive(self) -> bool:
        """Whether the QEMU process of the manifest still runs (pid and start time)."""
        return self.manifest.process is not None and is_running(self.manifest.process)

    async def wait_dead(self) -> str:
        """Return the reason when QEMU has ended; until then a guest that a full disk stops goes on."""
        sessions = self.sessions
        if sessions is not None:  # kept: whoever destroys the machine meanwhile lets go of them
            async with TaskGroup() as tasks:
                going = sessions.qmp and tasks.create_task(
                    self.room.keep_going(sessions.qmp, machine_id=self.manifest.machine_id)
                )
                await sessions.handle.ended()
                if going:
                    going.cancel()
            cause = None if sessions.qmp is None else await sessions.qmp.shutdown_cause()
            if cause is not None:
                return f"the guest ended: {cause}"
        said = log_tail(self.host.directory(self.manifest.machine_id))
        return f"QEMU ended: {said.splitlines()[-1]}" if said else "QEMU ended without a word"

    async def resize_memory(self, memory_mib: int) -> int:
        """Ask for a size (base + plugged) and return what the guest reached and can use."""
        async with self.changing:
            target = memory.reachable(memory_mib, self.manifest.shape)
            before = await memory.current(self.monitor, self.manifest.shape)
            if target > before:
                self._limit(memory_mib=target)
            reached = await memory.resize(self.monitor, self.manifest.shape, target)
            if reached != target or target < before:
                self._limit(memory_mib=reached)
            self.record(msgspec.structs.replace(self.manifest, memory_mib=reached))
            return await memory.online(self.guest, self.manifest.shape, reached)

    async def set_cpu_count(self, cpu_count: int) -> None:
        """Have exactly this many vCPUs online in the guest."""
        if not 1 <= cpu_count <= self.manifest.shape.cpu_max:
            raise HypervisorFailed(f"this machine has up to {self.manifest.shape.cpu_max} vCPUs")
        async with self.changing:
            if cpu_count > self.manifest.cpu_count:
                self._limit(cpu_count=cpu_count)
            await processors.set_online(self.guest, count=cpu_count)
            self.record(msgspec.structs.replace(self.manifest, cpu_count=cpu_count))
            self._limit()

    async def note_restart(self, restart_id: str) -> None:
        """Write it down."""
        async with self.changing:
            self.record(msgspec.structs.replace(self.manifest, restart_id=restart_id))

    async def limit_cpu(self, cpu_percent: int | None) -> None:
        """Bound what the host gives the machine."""
        async with self.changing:
            self.record(msgspec.structs.replace(self.manifest, cpu_percent=cpu_percent))
            self._limit()

    async def memory_used_mib(self) -> int:
        """Return what the host has lost to this machine (PSS)."""
        process = self.manifest.process
        if process is None:
            return 0
        return await asyncio.to_thread(memory_used_mib, process.pid)

    async def usage(self) -> MachineUsage:
        """Return the CPU time of its QEMU, and what its directory takes up."""
        process, directory = self.manifest.process, self.host.directory(self.manifest.machine_id)

        def read() -> MachineUsage:
            return MachineUsage(cpu_seconds(process.pid) if process else 0.0, _allocated_mib(directory))

        return await asyncio.to_thread(read)

    async def set_network(self, *, enabled: bool) -> None:
        """Open or close egress."""
        seat = NetworkSeat(self.manifest.machine_id, self.manifest.slot)
        await self.host.network.set_egress(seat, enabled=enabled)
        self.record(msgspec.structs.replace(self.manifest, network_enabled=enabled))

    async def listen_for_metadata(self) -> socket:
        """Return a listening socket that this guest alone reaches."""
        return await self.host.network.listen_for_metadata(self.manifest.machine_id)

    async def grow_disk(self, disk_mib: int) -> None:
        """Grow the data disk (host side); the guest grows the file system after it."""
        if disk_mib < self.manifest.disk_mib:
            raise HypervisorFailed(
                f"a disk of {self.manifest.disk_mib} MiB does not shrink to {disk_mib} MiB"
            )
        if disk_mib == self.manifest.disk_mib:
            return
        data_node = DATA_DRIVE if self.manifest.data is None else self.manifest.data.nodes[0]
        await self.monitor.execute("block_resize", {"node-name": data_node, "size": disk_mib << 20})
        self.record(msgspec.structs.replace(self.manifest, disk_mib=disk_mib))

    async def destroy(self) -> None:
        """End QEMU and remove everything of the machine from the host. Idempotent."""
        await self.release()
        manifest = self.manifest
        await erasing.erase(self.host, manifest.machine_id, process=manifest.process, slot=manifest.slot)

    async def release(self) -> None:
        """Close our ends; the machine runs on. Idempotent."""
        sessions, self.sessions = self.sessions, None
        if sessions is None:
            return
        if sessions.guest is not None:
            await sessions.guest.close()
        if sessions.qmp is not None:
            await sessions.qmp.close()
        sessions.handle.close()

    @property
    def monitor(self) -> Qmp:
        """The session with QEMU; `HypervisorFailed` when there is none."""
        if self.sessions is None or self.sessions.qmp is None:
            raise HypervisorFailed(f"the monitor of machine {self.manifest.machine_id} does not answer")
        return self.sessions.qmp

    def _limit(self, *, memory_mib: int | None = None, cpu_count: int | None = None) -> None:
        allowed = limits(
            memory_mib=memory_mib or self.manifest.memory_mib,
            cpu_count=cpu_count or self.manifest.cpu_count,
            cpu_percent=self.manifest.cpu_percent,
        )
        self.host.cgroups.set_limits(self.manifest.machine_id, allowed)

    def record(self, manifest: Manifest) -> None:
        """Write down how the machine has changed."""
        write_manifest(self.host.directory(manifest.machine_id), manifest, durable=False)
        self.manifest = manifest


def _allocated_mib(directory: Path) -> int:
    """Return what the files of a directory take up on the disk; they may come and go meanwhile."""
    blocks = 0
    for path in directory.iterdir():
        with suppress(OSError):
            blocks += path.lstat().st_blocks
    return blocks * 512 // 2**20
