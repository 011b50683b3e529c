"""What a simulated worker says of itself. Its host has twice its budget, and may have neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandfleet.wire.worker_messages import Heartbeat

VERSION = "digest-1"

if TYPE_CHECKING:
    from sandfleet.testing.simulation.host import Host

HOST_FACTOR = 2
DISK_MIB = 2**20


def heartbeat_of(host: Host) -> Heartbeat:
    """Return it, with the number that it has by now."""
    return Heartbeat(
        worker_id=host.worker_id,
        instance_id=f"{host.worker_id}.{host.incarnation}",
        sequence=host.sequence,
        machine_id=host.machine_id or host.worker_id,
        region="local",
        http_url=f"http://{host.worker_id}:9000",
        worker_version=host.version,
        accelerator="tcg",
        cpu_model="max",
        templates={"base": VERSION},
        total_memory_mib=host.total.memory_mib,
        total_cpu=host.total.cpu_count,
        total_disk_mib=host.total.disk_mib,
        memory_used_mib=host.committed_mib + host.neighbours_mib,
        cpu_percent=0.0,
        disk_used_mib=0,
        host_memory_mib=HOST_FACTOR * host.total.memory_mib,
        host_cpus=8,
        host_disk_mib=DISK_MIB,
        vms=[host.status(vm) for vm in host.vms.values()] if host.is_adopted else None,
    )
