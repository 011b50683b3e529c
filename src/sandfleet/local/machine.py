"""Facts of this machine that the fleet is sized by."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

_MIB = 2**20
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
_RESERVE_MIB_MIN = 1024
_RESERVE_SHARE = 0.15
_BUDGET_MIB_MIN = 512
_WARM_MAX = 4
_MEMORY_PER_WARM_MIB = 2048


def memory_total_mib() -> int:
    """Return the memory this machine or container has."""
    total = int(psutil.virtual_memory().total) // _MIB
    return min([total, *(limit for path in _CGROUP_LIMITS if (limit := _limit_mib(path)))])


def memory_budget_mib(total_mib: int) -> int:
    """Return what sandboxes may be promised: all but a reserve for the host and the services."""
    reserve = max(_RESERVE_MIB_MIN, int(total_mib * _RESERVE_SHARE))
    return max(_BUDGET_MIB_MIN, total_mib - reserve)


def cpu_budget() -> int:
    """Return how many vCPUs a worker says it has: four for each CPU."""
    return (os.cpu_count() or 1) * 4


def warm_pool_size(budget_mib: int) -> int:
    """Return how many sandboxes stand ready unassigned: few on a small machine."""
    return max(1, min(_WARM_MAX, budget_mib // _MEMORY_PER_WARM_MIB))


def _limit_mib(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return max(1, int(text) // _MIB) if text.isdigit() else None
