"""Hosts that are about to be taken away: their workers are drained until then, and kept if it was called off.

Rule 1: it counts who says so first: the worker by its heartbeat, or the pool of its machine.
Rule 2: a drain ends a little before the host does, so that the last save is brought to the object store.
Rule 3: of what can neither move nor be asleep in time a checkpoint is taken while it runs on. A sleep that is
not durable in time takes the sandbox from its user and saves nothing; a checkpoint that is not costs nothing.
Rule 4: only when both who could say it of a host have answered, and neither does, was it called off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sandfleet.model.drain import Drain, DrainOwner
from sandfleet.model.ids import WorkerId
from sandfleet.model.machine import Machine
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.fleet import DrainWorker, KeepWorker

MARGIN_S = 10.0
SLEEP_S = 5.0
SLEEP_MIB_PER_S = 128
"""What a sleep may be relied on to bring to the object store: what is empty of a memory is not brought."""
BY_POOL = "its pool takes the machine away"
_OURS = DrainOwner.NOTICE


class LastResort(StrEnum):
    """What becomes of a sandbox that cannot move in time, the cheaper first."""

    SLEEP = "sleep"
    """Nothing that it did is lost, and the next call wakes it elsewhere."""
    CHECKPOINT = "checkpoint"
    """It runs on as long as its host does, and goes back to that state then."""


def last_resort(memory_mib: int, *, left_s: float, refuses_sleep: bool) -> LastResort:
    """Choose the cheaper one that is in time. `left_s`: until its host ends."""
    if refuses_sleep or left_s < SLEEP_S + memory_mib / SLEEP_MIB_PER_S:
        return LastResort.CHECKPOINT
    return LastResort.SLEEP


@dataclass(frozen=True, slots=True)
class NoticeView:
    """What was read."""

    workers: Sequence[Worker]
    drains: Mapping[WorkerId, Drain]
    machines: Sequence[Machine] = ()
    unknown: frozenset[WorkerId] = frozenset()
    """Workers of whose machines the pool has not said anything."""


def plan_notices(view: NoticeView, *, now: datetime) -> Sequence[DrainWorker | KeepWorker]:
    """Return whom to drain until when, and whom to keep after all."""
    by_name = {name: one for one in view.machines for name in (one.id, one.launch_id) if name}
    commands: list[DrainWorker | KeepWorker] = []
    for worker in sorted(view.workers, key=lambda one: one.id):
        if worker.state is WorkerState.GONE:
            continue
        drain = view.drains.get(worker.id)
        is_ours = drain is not None and drain.owner is _OURS
        notice = _notice(worker, by_name.get(worker.machine_id))
        if notice is not None and not is_ours:
            ends_at, because = notice
            left_s = max(0.0, (ends_at - now).total_seconds() - MARGIN_S)
            reason = f"its host ends at {ends_at:%Y-%m-%d %H:%M:%S}: {because}"
            commands.append(DrainWorker(worker.id, _OURS, reason, deadline_s=left_s))
        elif notice is None and is_ours and _is_known(worker, view):
            commands.append(KeepWorker(worker.id, _OURS, "its host is not taken away, after all"))
    return commands


def _is_known(worker: Worker, view: NoticeView) -> bool:
    """Whether both who could speak of its host have spoken."""
    return worker.state is WorkerState.READY and worker.id not in view.unknown


def _notice(worker: Worker, machine: Machine | None) -> tuple[datetime, str] | None:
    """Return the earlier of what both say."""
    said = []
    if worker.ends_at is not None:
        said.append((worker.ends_at, worker.ends_because))
    if machine is not None and machine.ends_at is not None:
        said.append((machine.ends_at, BY_POOL))
    return min(said, default=None)
