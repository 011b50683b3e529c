"""What a machine is given inside when it becomes a sandbox: identity and sizes."""

from __future__ import annotations

from sandfleet.ports.guest import GuestIdentity
from sandfleet.ports.hypervisor import Machine, MachineOrder
from sandfleet.wire.worker_messages import StartVm
from sandfleet.worker.host import Host

SEED_BYTES = 64
RESERVE_PERCENT_MAX = 11


async def shape(host: Host, machine: Machine) -> None:
    """Give a machine inside the sizes that its clone was given outside."""
    order = machine.facts.order
    await machine.guest.set_limits(
        memory_mib=user_memory_mib(host, order.memory_mib),
        cpu_percent=machine.facts.cpu_percent or order.cpu_count * 100,
        pids_max=host.limits.pids_max,
    )
    if order.disk_mib > host.limits.disk_default_mib:
        await machine.guest.grow_disk()


async def fit(machine: Machine, order: StartVm) -> None:
    """Give a machine of a snapshot the sizes that are asked for; what it has already stays as it is."""
    has = machine.facts.order
    if order.disk_mib > has.disk_mib:
        await machine.grow_disk(order.disk_mib)
    if order.memory_mib != has.memory_mib:
        await machine.resize_memory(order.memory_mib)
    if order.cpu_count > has.cpu_count:
        await machine.set_cpu_count(order.cpu_count)
    if order.cpu_percent != machine.facts.cpu_percent:
        await machine.limit_cpu(order.cpu_percent)


def user_memory_mib(host: Host, memory_mib: int) -> int:
    """Return what of a guest's memory its users may have; the rest is the kernel's and the agent's.

    Never less than the share that users are promised, however small the guest is.
    """
    return memory_mib - min(host.limits.guest_reserve_mib, memory_mib * RESERVE_PERCENT_MAX // 100)


def identity(
    host: Host,
    host_name: str,
    envs: dict[str, str] | None = None,
    *,
    renew: bool = False,
    is_known: bool = False,
) -> GuestIdentity:
    """Return an identity with fresh randomness and the time of now."""
    return GuestIdentity(
        host_name=host_name,
        seed=host.entropy(SEED_BYTES),
        wall_clock_s=host.clock.now().timestamp(),
        envs=dict(envs or {}),
        renew=renew,
        is_known=is_known,
    )


def machine_order(order: StartVm) -> MachineOrder:
    """Return the shape that a start asks for."""
    return MachineOrder(
        template=order.template,
        memory_mib=order.memory_mib,
        cpu_count=order.cpu_count,
        disk_mib=order.disk_mib,
        network_enabled=order.network_enabled,
    )
