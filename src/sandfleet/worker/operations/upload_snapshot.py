"""Upload: bring a local snapshot to the object store, beyond the end of the request and of this process."""

from __future__ import annotations

import structlog

from sandfleet.model.errors import NotFound, SandfleetError, SnapshotUnusable
from sandfleet.ports.snapshots import SavedSnapshot
from sandfleet.wire.worker_messages import SnapshotState
from sandfleet.worker.host import Host
from sandfleet.worker.uploads import DURABLE_FILE, WANTED_FILE, Upload, is_durable, is_wanted, mark

log = structlog.get_logger("sandfleet.worker")
TRIES = 5
BACK_OFF_S_MAX = 30.0


def upload_snapshot(host: Host, snapshot_id: str) -> SnapshotState:
    """Begin the upload, or begin it again after a failure; return how it stands now."""
    host.require_adopted()
    saved = host.require_snapshots().find(snapshot_id)
    if saved is None:
        raise NotFound(f"this worker has no copy of snapshot {snapshot_id}")
    _begin(host, saved)
    return host.uploads.state(saved)


async def snapshot_states(host: Host) -> list[SnapshotState]:
    """Return every local copy and upload of this host."""
    host.require_adopted()
    return [host.uploads.state(saved) for saved in await host.require_snapshots().local_snapshots()]


async def resume_uploads(host: Host) -> None:
    """Take up again what a process before this one was asked for."""
    if host.snapshots is None:
        return
    for saved in await host.snapshots.local_snapshots():
        if is_wanted(saved.directory):
            _begin(host, saved)


def _begin(host: Host, saved: SavedSnapshot) -> None:
    host.require_store()
    snapshot_id = saved.manifest.snapshot_id
    known = host.uploads.by_id.get(snapshot_id)
    is_running = known is not None and known.task is not None and not known.task.done
    if is_running or is_durable(saved.directory):
        return
    mark(saved.directory, WANTED_FILE)
    upload = host.uploads.by_id[snapshot_id] = Upload()
    upload.task = host.background.start(_upload(host, saved, upload), name=f"upload {snapshot_id}")


async def _upload(host: Host, saved: SavedSnapshot, upload: Upload) -> None:
    for attempt in range(1, TRIES + 1):
        try:
            async with host.uploads.room:
                await _try(host, saved, upload)
            return
        except SnapshotUnusable as error:  # trying again changes nothing about our own copy
            upload.failure = error.message
            raise
        except SandfleetError as error:
            upload.failure = error.message
            log.warning(
                "upload_failed",
                snapshot=saved.manifest.snapshot_id,
                attempt=attempt,
                reason=error.message,
            )
            if attempt == TRIES:
                raise
        await host.clock.sleep(min(BACK_OFF_S_MAX, 2.0**attempt))


async def _try(host: Host, saved: SavedSnapshot, upload: Upload) -> None:
    began_s = host.clock.monotonic()
    files = host.require_snapshots().stored_files(saved.manifest)
    new_bytes = await host.require_store().put(saved.manifest, files, progress=upload.progress)
    mark(saved.directory, DURABLE_FILE)
    upload.failure = None
    host.changed.set()
    log.info(
        "snapshot_durable",
        snapshot=saved.manifest.snapshot_id,
        new_bytes=new_bytes,
        took_s=round(host.clock.monotonic() - began_s, 3),
    )
