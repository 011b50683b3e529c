"""Whether a sandbox may become larger where it is."""

from __future__ import annotations

from sandfleet.model.resources import SizeLimits
from sandfleet.model.worker import Worker
from sandfleet.planning.placement import PlacementPolicy
from sandfleet.planning.sizing import effective_resources


def resized_memory(limits: SizeLimits, memory_mib: int) -> int:
    """Return the memory that is given for what was asked; SizeOutOfRange."""
    return effective_resources(limits, memory_mib=memory_mib, cpu_count=1, disk_mib=None).memory_mib


def shortage(worker: Worker, extra_mib: int, policy: PlacementPolicy) -> str | None:
    """Return why the worker cannot promise so much more memory, None if it can."""
    limit = int(worker.total.memory_mib * policy.memory_ratio_max)
    free = limit - worker.committed.memory_mib
    if extra_mib <= free:
        return None
    return f"short of {extra_mib} MiB memory: {max(0, free)} of {limit} MiB are free"
