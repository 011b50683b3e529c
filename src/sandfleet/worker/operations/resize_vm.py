"""Resize: a running guest gets another memory size and CPU limit; done when it has them.

Order: to grow, first memory, then the limit of the users; to shrink, the other way
round, so that users never may have what is about to go. What fails is undone: the
guest then has its old size, and the answer says why.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import structlog

from sandfleet.model.errors import Conflict, GuestUnresponsive, HypervisorFailed, NoCapacity
from sandfleet.ports.hypervisor import Machine
from sandfleet.wire.worker_messages import ResizedVm, ResizeVm
from sandfleet.worker.host import Host
from sandfleet.worker.operations.outfit import user_memory_mib
from sandfleet.worker.residents import Resident

log = structlog.get_logger("sandfleet.worker")
FLOOR_MARGIN_MIB = 32
"""Users must keep so much more than they use: right after the change they use a little more."""
SHRINK_ATTEMPTS = 3


async def resize_vm(host: Host, sandbox_id: str, order: ResizeVm) -> ResizedVm:
    """Return when the guest has the size; the same sequence twice is one change."""
    host.require_adopted()
    resident = host.residents.serving(sandbox_id, epoch=order.epoch)
    async with resident.resizing:
        with resident.sizes.carrying_out(order.sequence):
            async with resident.activity() as machine:
                await _change(host, resident, machine, order)
    host.changed.set()
    return ResizedVm(memory_mib=order.memory_mib, cpu_percent=order.cpu_percent)


async def _change(host: Host, resident: Resident, machine: Machine, order: ResizeVm) -> None:
    before_mib = resident.order.memory_mib
    async with _promised(host, resident, order.memory_mib):
        if order.memory_mib > before_mib:
            await _grow(machine, order.memory_mib, before_mib=before_mib)
        elif order.memory_mib < before_mib:
            await _shrink(host, machine, order, before_mib=before_mib)
        await machine.limit_cpu(order.cpu_percent)
        await _set_limits(host, machine, order.memory_mib, cpu_percent=order.cpu_percent)
    log.info("vm_resized", sandbox=resident.sandbox_id, before_mib=before_mib, memory_mib=order.memory_mib)


@asynccontextmanager
async def _promised(host: Host, resident: Resident, memory_mib: int) -> AsyncIterator[None]:
    """Count the larger of both sizes while it changes, and then what the guest has."""
    before = resident.order
    extra_mib = memory_mib - before.memory_mib
    if extra_mib > 0:
        host.require_memory(extra_mib)
        resident.order = replace(before, memory_mib=memory_mib)
    try:
        yield
    except BaseException:
        resident.order = before
        raise
    resident.order = replace(before, memory_mib=memory_mib)


async def _grow(machine: Machine, memory_mib: int, *, before_mib: int) -> None:
    reached = await machine.resize_memory(memory_mib)
    if reached < memory_mib:
        await machine.resize_memory(before_mib)
        raise NoCapacity(f"a guest of this host reaches {reached} of {memory_mib} MiB")


async def _shrink(host: Host, machine: Machine, order: ResizeVm, *, before_mib: int) -> None:
    used_mib = -(-(await machine.guest.stats()).memory_used // (1 << 20))
    floor_mib = used_mib + FLOOR_MARGIN_MIB + (order.memory_mib - user_memory_mib(host, order.memory_mib))
    if order.memory_mib < floor_mib:
        raise _too_small(used_mib, floor_mib)
    cpu_percent = machine.facts.cpu_percent or machine.facts.order.cpu_count * 100
    await _set_limits(host, machine, order.memory_mib, cpu_percent=cpu_percent)
    try:
        reached = before_mib
        for _ in range(SHRINK_ATTEMPTS):
            reached = await machine.resize_memory(order.memory_mib)
            if reached <= order.memory_mib:
                return
        raise _too_small(used_mib, reached)
    except (Conflict, GuestUnresponsive, HypervisorFailed):
        await machine.resize_memory(before_mib)
        await _set_limits(host, machine, before_mib, cpu_percent=cpu_percent)
        raise


def _too_small(used_mib: int, floor_mib: int) -> Conflict:
    return Conflict(
        f"the guest uses {used_mib} MB and cannot be made smaller than {floor_mib} MB now",
        code="oom_floor",
        details={"usedMB": used_mib, "floorMB": floor_mib},
    )


async def _set_limits(host: Host, machine: Machine, memory_mib: int, *, cpu_percent: int) -> None:
    await machine.guest.set_limits(
        memory_mib=user_memory_mib(host, memory_mib),
        cpu_percent=cpu_percent,
        pids_max=host.limits.pids_max,
    )
