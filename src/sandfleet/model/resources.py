"""Amounts of memory, CPU and disk, and the rules that make a request of them valid."""

from __future__ import annotations

from dataclasses import dataclass

MEMORY_BLOCK_MIB = 128
"""What a guest's kernel takes memory in and gives it back in: every size is a multiple."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What one sandbox is promised, or what a worker has to promise."""

    memory_mib: int
    cpu_count: int
    disk_mib: int

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            memory_mib=self.memory_mib + other.memory_mib,
            cpu_count=self.cpu_count + other.cpu_count,
            disk_mib=self.disk_mib + other.disk_mib,
        )

    def __sub__(self, other: Resources) -> Resources:
        return Resources(
            memory_mib=self.memory_mib - other.memory_mib,
            cpu_count=self.cpu_count - other.cpu_count,
            disk_mib=self.disk_mib - other.disk_mib,
        )


NOTHING = Resources(memory_mib=0, cpu_count=0, disk_mib=0)


@dataclass(frozen=True, slots=True)
class SizeLimits:
    """The sizes that a fleet offers. All amounts in MiB unless the name says otherwise."""

    memory_default_mib: int = 1024
    memory_base_mib: int = 512
    memory_max_mib: int = 65536
    memory_block_mib: int = 128
    disk_default_mib: int = 20480
    disk_min_mib: int = 20480
    disk_max_mib: int = 262144
    cpu_max: int = 16
    memory_per_cpu_mib: int = 4096
