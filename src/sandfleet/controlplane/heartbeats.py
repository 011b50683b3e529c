"""A worker's heartbeat: what it says is written down, and it is told what it must know.

Any replica takes any heartbeat, so nothing is remembered here. A missing heartbeat says
nothing about sandboxes; comparing what a worker holds with the rows is the reconcile
loop's work, which asks the worker itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.operations.move_workers import DEAD
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.resources import Resources
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.fencing import epochs_over
from sandfleet.wire.move_messages import ARRIVING
from sandfleet.wire.worker_messages import Heartbeat, HeartbeatAnswer

ACTIVITY_WINDOW_S = 60.0
"""Activity older than this was told by earlier heartbeats, more than one of them."""


async def record_heartbeat(plane: ControlPlane, beat: Heartbeat) -> HeartbeatAnswer:
    """Register or refresh the worker and the activity of its sandboxes."""
    registration = await plane.stores.workers.register(worker_of(beat, now=plane.clock.now()))
    await plane.stores.sandboxes.touch(activity_of(beat, now=plane.clock.now()))
    plane.observer.worker_reported(registration.worker.id, exec_sessions=beat.exec_sessions)
    is_gone = registration.worker.state is WorkerState.GONE
    return HeartbeatAnswer(
        term=registration.term,
        public_keys=dict(plane.public_keys),
        cordoned=registration.worker.cordoned or registration.worker.draining or is_gone,
        quarantined=list(registration.quarantined),
        heartbeat_interval_s=plane.settings.heartbeat_interval_s,
        gone=is_gone,
        over=await _over(plane, beat) if is_gone else {},
    )


async def _over(plane: ControlPlane, beat: Heartbeat) -> dict[str, int]:
    """Return which of the VMs that a worker which is gone still holds are somebody else's, or nobody's."""
    held = [SandboxId(vm.sandbox_id) for vm in beat.vms or ()]
    owners = await plane.stores.workers.owners(held) if held else {}
    # What has died before it arrived was coming as well: its epoch is newer than any in the rows.
    coming = {SandboxId(vm.sandbox_id): vm.epoch for vm in beat.vms or () if vm.state in (ARRIVING, DEAD)}
    over = epochs_over(owners, gone=WorkerId(beat.worker_id), coming=coming)
    return {str(sandbox_id): epoch for sandbox_id, epoch in over.items()}


def worker_of(beat: Heartbeat, *, now: datetime) -> Worker:
    """Return the worker that the heartbeat describes; one that is stopping takes nothing new."""
    return Worker(
        id=WorkerId(beat.worker_id),
        machine_id=beat.machine_id,
        region=beat.region,
        state=WorkerState.SILENT if beat.stopping else WorkerState.READY,
        version=1,
        http_url=beat.http_url,
        total=Resources(beat.total_memory_mib, beat.total_cpu, beat.total_disk_mib),
        templates=beat.templates,
        worker_version=beat.worker_version,
        accelerator=beat.accelerator,
        cpu_model=beat.cpu_model,
        memory_used_mib=beat.memory_used_mib,
        cpu_percent=beat.cpu_percent,
        disk_used_mib=beat.disk_used_mib,
        host_memory_mib=beat.host_memory_mib,
        host_cpus=beat.host_cpus,
        host_disk_mib=beat.host_disk_mib,
        ends_at=None if beat.ends_in_s is None else now + timedelta(seconds=beat.ends_in_s),
        ends_because=beat.ends_because,
        instance_id=beat.instance_id,
        sequence=beat.sequence,
    )


def activity_of(beat: Heartbeat, *, now: datetime) -> Mapping[SandboxId, datetime]:
    """Return when something last happened in each sandbox that has lately been active."""
    return {
        SandboxId(vm.sandbox_id): now - timedelta(seconds=0 if vm.in_flight else vm.idle_s)
        for vm in beat.vms or ()
        if vm.in_flight or vm.idle_s < ACTIVITY_WINDOW_S
    }
