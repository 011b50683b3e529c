"""Hosts that are about to be taken away: their workers are drained until then, and kept if it was called off.

Rule 1: it counts who says so first: the worker by its heartbeat, or the pool of its machine.
Rule 2: a drain ends a little before the host does, so that the last save is brought to the object store.
Rule 3: only when everybody who could say it has answered, and nobody does, was it called off. A machine
that its pool tells no more of has been taken away.
Rule 4: such a machine is no more when, besides, nothing has been heard of its worker for a while.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sandfleet.model.drain import Drain, DrainOwner
from sandfleet.model.ids import WorkerId
from sandfleet.model.launch import Launch
from sandfleet.model.machine import Machine
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.fleet import DrainWorker, KeepWorker

MARGIN_S = 10.0
BY_POOL = "its pool takes the machine away"
MISSING_S = 30.0
"""A list may leave out what is there for a moment."""
_OURS = DrainOwner.NOTICE
_SILENT = (WorkerState.SILENT, WorkerState.UNREACHABLE)


@dataclass(frozen=True, slots=True)
class NoticeView:
    """What was read. `is_complete`: every pool has answered."""

    workers: Sequence[Worker]
    drains: Mapping[WorkerId, Drain]
    machines: Sequence[Machine] = ()
    launches: Sequence[Launch] = ()
    is_complete: bool = True

    @property
    def named(self) -> Mapping[str, Machine]:
        """The machines by each of their names."""
        return {name: one for one in self.machines for name in (one.id, one.launch_id) if name}

    @property
    def launched(self) -> Mapping[str, Launch]:
        """The launches whose machines may be there, by each name of these."""
        return {name: one for one in self.launches if one.gone_at is None for name in one.machine_names}


def plan_notices(view: NoticeView, *, now: datetime) -> Sequence[DrainWorker | KeepWorker]:
    """Return whom to drain until when, and whom to keep after all."""
    by_name, launched = view.named, view.launched
    commands: list[DrainWorker | KeepWorker] = []
    for worker in sorted(view.workers, key=lambda one: one.id):
        if worker.state is WorkerState.GONE:
            continue
        drain = view.drains.get(worker.id)
        is_ours = drain is not None and drain.owner is _OURS
        notice = _notice(worker, by_name.get(worker.machine_id))
        is_there = worker.machine_id in by_name or worker.machine_id not in launched
        if notice is not None and not is_ours:
            ends_at, because = notice
            left_s = max(0.0, (ends_at - now).total_seconds() - MARGIN_S)
            reason = f"its host ends at {ends_at:%Y-%m-%d %H:%M:%S}: {because}"
            commands.append(DrainWorker(worker.id, _OURS, reason, deadline_s=left_s))
        elif notice is not None or not is_ours or not is_there:
            continue
        elif view.is_complete and worker.state is WorkerState.READY:
            commands.append(KeepWorker(worker.id, _OURS, "its host is not taken away, after all"))
    return commands


def missing(
    view: NoticeView, before: Mapping[WorkerId, datetime], *, now: datetime
) -> Mapping[WorkerId, datetime]:
    """Return which silent workers' machines their pools do not tell of any more, and since when."""
    if not view.is_complete:
        return before  # nothing was learnt
    there = view.named
    return {
        worker.id: before.get(worker.id, now)
        for worker in view.workers
        if worker.state in _SILENT
        and worker.machine_id in view.launched
        and not any(name in there for name in view.launched[worker.machine_id].machine_names)
    }


def machines_gone(
    view: NoticeView, since: Mapping[WorkerId, datetime], *, now: datetime
) -> Sequence[tuple[Worker, Launch]]:
    """Return the workers whose machines have been missing for so long that their pools are asked to end them.

    The pool's answer to that is the proof, not this.
    """
    found = []
    for worker in sorted(view.workers, key=lambda one: one.id):
        launch = view.launched.get(worker.machine_id)
        at = since.get(worker.id)
        if launch is None or at is None or launch.machine_id is None:
            continue
        if (now - at).total_seconds() >= MISSING_S:
            found.append((worker, launch))
    return found


def _notice(worker: Worker, machine: Machine | None) -> tuple[datetime, str] | None:
    """Return the earlier of what both say."""
    said = []
    if worker.ends_at is not None:
        said.append((worker.ends_at, worker.ends_because))
    if machine is not None and machine.ends_at is not None:
        said.append((machine.ends_at, BY_POOL))
    return min(said, default=None)
