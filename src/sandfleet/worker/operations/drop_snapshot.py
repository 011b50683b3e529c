"""Drop: have no local copy of a snapshot left. Machines that run on its layers go on."""

from __future__ import annotations

from sandfleet.wire.worker_messages import SnapshotDropped
from sandfleet.worker.host import Host


async def drop_snapshot(host: Host, snapshot_id: str) -> SnapshotDropped:
    """End an upload of it and remove its files. Idempotent."""
    host.require_adopted()
    upload = host.uploads.by_id.pop(snapshot_id, None)
    if upload is not None and upload.task is not None:
        upload.task.cancel()
        await upload.task.settled()
    existed = await host.require_snapshots().drop(snapshot_id)
    return SnapshotDropped(snapshot_id=snapshot_id, existed=existed)
