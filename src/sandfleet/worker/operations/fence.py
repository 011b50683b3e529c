"""Fence: a worker that the fleet has forgotten ends the VMs whose sandboxes are somebody else's by now.

It was taken for lost on somebody's word, and it speaks: what it still runs may run elsewhere as
well. Only epochs that the control plane has named as over are ended, and they stay buried, so that
no order that comes late begins one of them again.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from sandfleet.worker.host import Host
from sandfleet.worker.operations.stop import end

log = structlog.get_logger("sandfleet.worker")
FORGOTTEN = "the fleet has forgotten this worker"


def fence(host: Host, over: Mapping[str, int]) -> None:
    """Begin to end each VM whose epoch is over; said again, what could not be ended before is tried again."""
    if host.trouble != FORGOTTEN:
        host.trouble = FORGOTTEN
        log.error("worker_forgotten", residents=len(host.residents), over=len(over))
    for sandbox_id, epoch in over.items():
        host.residents.bury(sandbox_id, epoch=epoch)
        resident = host.residents.find(sandbox_id)
        if resident is None or resident.epoch > epoch:
            continue
        if resident.stopping is None or resident.stopping.done:
            log.warning("vm_fenced", sandbox=sandbox_id, epoch=resident.epoch, over=epoch)
            host.background.start(end(host, resident), name=f"fence {sandbox_id}")
