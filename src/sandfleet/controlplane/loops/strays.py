"""Removes copies of snapshots that no row names from the workers that hold them.

`garbage` asks the workers that it knows of and that are ready. A copy may be left all the same:
on a worker that was silent then, or made by an order that came late.

The proof: a row is written before the first byte of its snapshot, goes after the last, and its
id never comes back. So what a worker lists, and has no row when that is read afterwards, is
nobody's. A worker that does not answer is not judged.
"""

from __future__ import annotations

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.model.errors import SandfleetError, StaleTerm, StoreUnavailable
from sandfleet.model.ids import SnapshotId
from sandfleet.model.worker import Worker, WorkerState

BATCH_MAX = 50


async def tick(plane: ControlPlane, *, term: int) -> str:
    """Look at every worker that is ready."""
    removed = 0
    for worker in await plane.stores.workers.list():
        if worker.state is WorkerState.READY:
            removed += await _remove(plane, worker, term=term)
    return f"removed {removed} copies without a row" if removed else "every copy has a row"


async def _remove(plane: ControlPlane, worker: Worker, *, term: int) -> int:
    """Have the worker drop what no row names; return how many it dropped."""
    dropped = 0
    try:
        listed = await plane.worker_client.snapshots(worker.id, worker.http_url)
        held = sorted(SnapshotId(one.snapshot_id) for one in listed)
        with_row = await plane.stores.snapshots.with_row(held) if held else frozenset()
        for stray in [one for one in held if one not in with_row][:BATCH_MAX]:
            await plane.worker_client.drop_snapshot(worker.id, worker.http_url, stray, term=term)
            dropped += 1
    except (StoreUnavailable, StaleTerm):
        raise
    except SandfleetError:  # it does not answer, or not now: the next tick asks again
        return dropped
    return dropped
