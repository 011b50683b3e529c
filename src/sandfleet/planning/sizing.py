"""How large a sandbox becomes: the effective sizes for what was asked, or why not."""

from __future__ import annotations

from sandfleet.model.errors import Forbidden, PlanLimit, SizeOutOfRange
from sandfleet.model.organisation import Caps
from sandfleet.model.resources import Resources, SizeLimits


def effective_resources(
    limits: SizeLimits, *, memory_mib: int | None, cpu_count: int | None, disk_mib: int | None
) -> Resources:
    """Return the sizes after defaults and rounding; SizeOutOfRange with the range in its details."""
    if cpu_count is not None:
        _check_cpu(cpu_count, limits)
    if memory_mib is None:
        memory_mib = _memory_for(cpu_count, limits)
    _check_memory(memory_mib, limits)
    blocks = -(-memory_mib // limits.memory_block_mib)
    rounded = min(blocks * limits.memory_block_mib, limits.memory_max_mib)
    disk = limits.disk_default_mib if disk_mib is None else disk_mib
    _check_disk(disk, limits)
    return Resources(memory_mib=rounded, cpu_count=cpu_count or cpus_for(rounded, limits), disk_mib=disk)


def forked_resources(
    source: Resources,
    limits: SizeLimits,
    *,
    memory_mib: int | None,
    cpu_count: int | None,
    disk_mib: int | None,
) -> Resources:
    """Return the size of a fork: its source's, or larger where that is asked for."""
    asked = effective_resources(
        limits,
        memory_mib=source.memory_mib if memory_mib is None else memory_mib,
        cpu_count=cpu_count,
        disk_mib=source.disk_mib if disk_mib is None else disk_mib,
    )
    # Its processors are online in the saved guest: there can be more, not fewer.
    is_larger = cpu_count is not None or memory_mib is not None
    return Resources(
        memory_mib=max(source.memory_mib, asked.memory_mib),
        cpu_count=max(source.cpu_count, asked.cpu_count) if is_larger else source.cpu_count,
        disk_mib=max(source.disk_mib, asked.disk_mib),
    )


def cpus_for(memory_mib: int, limits: SizeLimits) -> int:
    """Return the CPU count that goes with a memory size."""
    return max(1, -(-memory_mib // limits.memory_per_cpu_mib))


def check_caps(resources: Resources, caps: Caps) -> None:
    """Raise PlanLimit or Forbidden (`disk_limit`) above the organisation's own caps for one sandbox."""
    if caps.memory_mib is not None and resources.memory_mib > caps.memory_mib:
        raise PlanLimit(f"memory of {resources.memory_mib} MB is above the organisation's cap")
    if caps.disk_mib is not None and resources.disk_mib > caps.disk_mib:
        raise Forbidden(f"disk of {resources.disk_mib} MB is above the organisation's cap", code="disk_limit")


def _memory_for(cpu_count: int | None, limits: SizeLimits) -> int:
    if cpu_count is None or cpu_count == 1:
        return limits.memory_default_mib
    return cpu_count * limits.memory_per_cpu_mib


def _check_cpu(cpu_count: int, limits: SizeLimits) -> None:
    if not 1 <= cpu_count <= limits.cpu_max:
        raise SizeOutOfRange(
            f"cpuCount must be between 1 and {limits.cpu_max}",
            code="cpu_out_of_range",
            details={"min": 1, "max": limits.cpu_max},
        )


def _check_memory(memory_mib: int, limits: SizeLimits) -> None:
    if not limits.memory_base_mib <= memory_mib <= limits.memory_max_mib:
        raise SizeOutOfRange(
            f"memoryMB must be between {limits.memory_base_mib} and {limits.memory_max_mib}",
            code="memory_out_of_range",
            details={
                "minMB": limits.memory_base_mib,
                "maxMB": limits.memory_max_mib,
                "blockMB": limits.memory_block_mib,
            },
        )


def _check_disk(disk_mib: int, limits: SizeLimits) -> None:
    if not limits.disk_min_mib <= disk_mib <= limits.disk_max_mib:
        raise SizeOutOfRange(
            f"diskMB must be between {limits.disk_min_mib} and {limits.disk_max_mib}",
            code="disk_out_of_range",
            details={"min": limits.disk_min_mib, "max": limits.disk_max_mib},
        )
