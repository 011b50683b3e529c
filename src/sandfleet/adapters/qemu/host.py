"""What all operations on one host's machines share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sandfleet.adapters.fault_points import FaultPoints
from sandfleet.adapters.qemu.cgroups import CgroupLimits, Cgroups
from sandfleet.adapters.qemu.config import GuestFactory, HypervisorConfig
from sandfleet.adapters.qemu.fork_memory import ForkMemories
from sandfleet.adapters.qemu.slots import Slots
from sandfleet.ports.guest import Guest
from sandfleet.ports.network import Network

OVERHEAD_MIB = 256
"""What QEMU itself may need beside its guest: code, devices, translated code, page tables, page cache."""
CPU_OVERHEAD_PERCENT = 25
"""QEMU's main loop and disk threads work beside the vCPUs."""


@dataclass(slots=True)
class Host:
    """Settings and the host's resources; `busy` are the machines that an operation of this process holds."""

    config: HypervisorConfig
    network: Network
    guests: GuestFactory
    late_guests: Callable[[Path], Guest]
    """Makes a session that connects when it is used, for a machine whose agent does not answer now."""
    cgroups: Cgroups
    slots: Slots
    busy: set[str] = field(default_factory=set)
    faults: FaultPoints = field(default_factory=FaultPoints)
    degradations: dict[str, str] = field(default_factory=dict)
    """What was found out only while it was tried, as sentences."""
    fork_memories: ForkMemories = field(default_factory=ForkMemories)
    copying: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whoever looks for the memory of a template, and copies it if it is not there."""
    spawning: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(4))

    def directory(self, machine_id: str) -> Path:
        """Return where the machine's files are."""
        return self.config.machines_dir / machine_id

    def uid(self, slot: int) -> int:
        """Return the user that the QEMU in `slot` runs as."""
        return self.config.uid_first + slot


def limits(*, memory_mib: int, cpu_count: int, cpu_percent: int | None = None) -> CgroupLimits:
    """Return what a machine with this much guest memory and CPU may take."""
    allowed = 100 * cpu_count if cpu_percent is None else min(100 * cpu_count, cpu_percent)
    return CgroupLimits(memory_mib=memory_mib + OVERHEAD_MIB, cpu_percent=allowed + CPU_OVERHEAD_PERCENT)
