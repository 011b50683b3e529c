"""Status: what this host holds."""

from __future__ import annotations

from sandfleet.model.errors import NotFound
from sandfleet.wire.worker_messages import VmStatus
from sandfleet.worker.host import Host


def status(host: Host, sandbox_id: str) -> VmStatus:
    """Return one VM's status; NotFound is positive: the host was looked through."""
    host.require_adopted()
    resident = host.residents.find(sandbox_id)
    if resident is None:
        raise NotFound(f"sandbox {sandbox_id} is not on this worker")
    return resident.status()


def statuses(host: Host) -> list[VmStatus]:
    """Return everything the host holds."""
    host.require_adopted()
    return [resident.status() for resident in host.residents]
