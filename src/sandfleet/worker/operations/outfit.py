"""What a machine is given inside when it becomes a sandbox: identity and sizes."""

from __future__ import annotations

from sandfleet.ports.guest import GuestIdentity
from sandfleet.ports.hypervisor import Machine, MachineOrder
from sandfleet.wire.worker_messages import StartVm
from sandfleet.worker.host import Host

SEED_BYTES = 64


async def shape(host: Host, machine: Machine) -> None:
    """Give a machine inside the sizes that its clone was given outside."""
    order = machine.facts.order
    await machine.guest.set_limits(
        memory_mib=order.memory_mib - host.limits.guest_reserve_mib,
        cpu_percent=order.cpu_count * 100,
        pids_max=host.limits.pids_max,
    )
    if order.disk_mib > host.limits.disk_default_mib:
        await machine.guest.grow_disk()


def identity(
    host: Host, host_name: str, envs: dict[str, str] | None = None, *, renew: bool = False
) -> GuestIdentity:
    """Return an identity with fresh randomness and the time of now."""
    return GuestIdentity(
        host_name=host_name,
        seed=host.entropy(SEED_BYTES),
        wall_clock_s=host.clock.now().timestamp(),
        envs=dict(envs or {}),
        renew=renew,
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
