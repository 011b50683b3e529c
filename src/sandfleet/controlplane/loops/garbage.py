"""Removes snapshots that nothing needs: from their worker, from the object store, then their rows.

Order, so that a crash after any step leaves only work to repeat: the row is marked, and nobody
can name it any more; the files go; the row goes when its worker and the store have said so.
Pieces in the object store that no snapshot needs any more go with its sweep.
"""

from __future__ import annotations

from collections.abc import Sequence

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.model.errors import SandfleetError, StoreUnavailable
from sandfleet.model.snapshot import Snapshot
from sandfleet.model.worker import Worker, WorkerState

BATCH_MAX = 50


async def tick(plane: ControlPlane, *, term: int) -> str:
    """Mark what nothing needs, and remove what is marked."""
    garbage = await plane.stores.snapshots.mark_garbage(term=term, limit=BATCH_MAX)
    if not garbage:
        return "no snapshot is unneeded"
    workers = await plane.stores.workers.list()
    removed = 0
    for snapshot in garbage:
        if await _is_gone(plane, snapshot, workers, term=term):
            await plane.stores.snapshots.remove(snapshot.id)
            removed += 1
    return f"removed {removed} of {len(garbage)} unneeded snapshots"


async def _is_gone(plane: ControlPlane, snapshot: Snapshot, workers: Sequence[Worker], *, term: int) -> bool:
    """Whether nothing of it is left where it was, and no worker that answers has a copy."""
    try:
        for worker in workers:
            if worker.state is WorkerState.GONE:
                continue
            if worker.id == snapshot.worker_id or worker.state is WorkerState.READY:
                await plane.worker_client.drop_snapshot(worker.id, worker.http_url, snapshot.id, term=term)
        if plane.blobs is not None:
            await plane.blobs.forget(snapshot.id)
    except StoreUnavailable:
        raise
    except SandfleetError:
        return False
    return True
