"""The worker that an operation is about to ask, if it is still one of the fleet."""

from __future__ import annotations

from sandfleet.controlplane.operations.step import Run
from sandfleet.model.errors import Gone
from sandfleet.model.ids import WorkerId
from sandfleet.model.worker import Worker, WorkerState


async def owner(run: Run, worker_id: WorkerId) -> Worker:
    """Return the worker; Gone when somebody has said that its host is no more.

    Whoever repeats an order until it is answered would never end. A sandbox that is `running` there
    by its row is recovered by the reconcile loop.
    """
    worker = await run.plane.stores.workers.get(worker_id)
    if worker.state is WorkerState.GONE:
        raise Gone(f"the host of worker {worker_id} was lost")
    return worker
