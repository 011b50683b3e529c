"""Workers that are not heard of: what is said of each, until when, and which of them are lost.

Rule 1: silence alone loses nobody. It takes the word of the pool that the machine is gone, so it is said of
machines alone that the fleet has launched; of any other somebody has to say it.
Rule 2: that word counts of a worker that has been silent for long: two who do not know of each other say it.
Rule 3: only a list of all machines says that one is missing; a pool that does not answer has said nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sandfleet.model.ids import WorkerId
from sandfleet.model.launch import Launch, LaunchState
from sandfleet.model.machine import Machine
from sandfleet.model.worker import Worker, WorkerState

GONE_BY_ITS_POOL = "its pool says that its machine is gone"


@dataclass(frozen=True, slots=True)
class AbsencePolicy:
    """After how much silence what is said."""

    unreachable_s: float = 60.0
    lost_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Absence:
    """Why a worker is not there, and when what comes next may come; None where nothing comes by itself."""

    reason: str
    deadline_at: datetime | None = None


def launched(launches: Sequence[Launch]) -> Mapping[WorkerId, Launch]:
    """Return the launch of each worker whose machine is the fleet's own, and stands."""
    return {
        one.worker_id: one
        for one in launches
        if one.worker_id is not None and one.state is LaunchState.JOINED and one.ending_since is None
    }


def absence(worker: Worker, *, is_launched: bool, policy: AbsencePolicy) -> Absence | None:
    """Return what is to be said of a worker that is not `ready`."""
    if worker.state is WorkerState.READY:
        return None
    if worker.state is WorkerState.GONE:
        return Absence(f"off the fleet: {worker.gone_because}" if worker.gone_because else "off the fleet")
    since = "" if worker.last_seen_at is None else f" since {worker.last_seen_at:%Y-%m-%d %H:%M:%S}"
    unheard = f"not heard of{since}"
    if worker.state is WorkerState.SILENT:
        return Absence(f"{unheard}, or it is being stopped", _after(worker, policy.unreachable_s))
    if not is_launched:
        return Absence(f"{unheard}; its sandboxes stay its own until somebody says that its host is lost")
    then = "if its pool says then that its machine is gone, it is lost and its sandboxes are recovered"
    return Absence(f"{unheard}; {then}", _lost_at(worker, policy))


def overdue(
    workers: Sequence[Worker], launches: Sequence[Launch], policy: AbsencePolicy, *, now: datetime
) -> Sequence[tuple[Worker, Launch]]:
    """Return those after whose machines the pools are to be asked, with their launches."""
    own = launched(launches)
    return [
        (worker, own[worker.id])
        for worker in workers
        if worker.state is WorkerState.UNREACHABLE
        and worker.id in own
        and (lost_at := _lost_at(worker, policy)) is not None
        and now >= lost_at
    ]


def is_missing(launch: Launch, machines: Sequence[Machine]) -> bool:
    """Whether no machine of its pool, of which these are all, is the launch's."""
    return not any(launch.owns(one.id, one.launch_id) for one in machines)


def _lost_at(worker: Worker, policy: AbsencePolicy) -> datetime | None:
    return _after(worker, max(policy.lost_s, policy.unreachable_s))


def _after(worker: Worker, seconds: float) -> datetime | None:
    return None if worker.last_seen_at is None else worker.last_seen_at + timedelta(seconds=seconds)
