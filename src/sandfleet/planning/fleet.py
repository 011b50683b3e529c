"""The fleet as the planners of capacity and roll-out see it, and the commands that they give.

A command is complete: who performs it chooses nothing. Each carries its reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sandfleet.model.drain import DRAIN_DEADLINE_S, DrainOwner, DrainTerms
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.launch import Launch, LaunchId
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.placement import PlacementRequest


@dataclass(frozen=True, slots=True)
class Resident:
    """A sandbox that lives on a worker, as a request for a place elsewhere."""

    sandbox_id: SandboxId
    request: PlacementRequest


@dataclass(frozen=True, slots=True)
class Member:
    """A worker with what is known of its machine."""

    worker: Worker
    size: str
    """The key of its machine's size."""
    added_at: datetime
    residents: Sequence[Resident] = ()
    drained_by: DrainOwner | None = None
    is_stuck: bool = False
    """Whether its drain is over its deadline, and something is there still."""
    is_proven_empty: bool = False
    """Its own fresh word that no VM is there; without that word nothing is removed."""

    @property
    def is_draining(self) -> bool:
        """Whether its sandboxes are to leave."""
        return self.worker.draining or self.drained_by is not None

    @property
    def takes_more(self) -> bool:
        """Whether something may be placed on it."""
        return self.worker.state is WorkerState.READY and not self.worker.cordoned and not self.is_draining

    @property
    def may_be_removed(self) -> bool:
        """Whether its machine may end: nothing may come, nothing is promised, and nothing is there."""
        is_bare = not self.residents and self.worker.committed.memory_mib == 0
        return (
            self.is_draining and is_bare and self.is_proven_empty and self.worker.state is WorkerState.READY
        )


@dataclass(frozen=True, slots=True)
class Surge:
    """What a roll-out asks of capacity."""

    workers: int = 0
    """So many above the usual number. Workers that it drains are not in it: others take their place."""
    version: str = ""
    """Which they boot, and where the sandboxes go that it drains."""
    is_under_way: bool = False
    above_max: int = 0
    """How many machines more than the maximum there may be for a while."""


@dataclass(frozen=True, slots=True)
class LaunchMachine:
    """Ask a pool for one machine."""

    launch_id: LaunchId
    size: str
    version: str
    reason: str


@dataclass(frozen=True, slots=True)
class AbandonLaunch:
    """Give a launch up that never joined; its machine, if there is one, is deleted."""

    launch_id: LaunchId
    reason: str


@dataclass(frozen=True, slots=True)
class DrainWorker:
    """Let nothing new in and everything out."""

    worker_id: WorkerId
    owner: DrainOwner
    reason: str
    deadline_s: float = DRAIN_DEADLINE_S
    hibernates: bool = True
    """Whether what nobody can take may be put to sleep for it."""

    @property
    def terms(self) -> DrainTerms:
        """What is agreed with it."""
        return DrainTerms(self.reason, self.deadline_s, self.hibernates)


@dataclass(frozen=True, slots=True)
class KeepWorker:
    """Call a drain off."""

    worker_id: WorkerId
    owner: DrainOwner
    reason: str


@dataclass(frozen=True, slots=True)
class RemoveWorker:
    """End the machine of a worker that is empty."""

    worker_id: WorkerId
    reason: str


FleetCommand = LaunchMachine | AbandonLaunch | DrainWorker | KeepWorker | RemoveWorker

UNHEALTHY_SHARE_MAX = 0.4
_UNHEALTHY = (WorkerState.SILENT, WorkerState.UNREACHABLE)


def frozen_because(members: Sequence[Member]) -> str | None:
    """Say why nothing may be taken away now: when this many are unhealthy the fault may be ours."""
    present = [one for one in members if one.worker.state is not WorkerState.GONE]
    unhealthy = sum(one.worker.state in _UNHEALTHY for one in present)
    if unhealthy <= UNHEALTHY_SHARE_MAX * len(present):
        return None
    return f"frozen: {unhealthy} of {len(present)} workers are unhealthy"


@dataclass(frozen=True, slots=True)
class CapacityView:
    """What there is and what is wanted."""

    members: Sequence[Member]
    launches: Sequence[Launch] = ()
    queue: Sequence[PlacementRequest] = ()
    """Creates that wait, in the order in which they are served."""
    typical: PlacementRequest | None = None
    """What is usually asked for: forecast demand is counted in it."""
    version: str = ""
    """What a machine boots that is launched now."""
    surge: Surge = Surge()
    is_settling: bool = False
    """The leader is new: workers that nobody has heard of yet may be about to report."""
