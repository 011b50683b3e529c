"""What the fleet has decided about its machines, durably (adapter: `adapters/postgres/fleet.py`).

Rule 1: a decision is one transaction in the leader's term: what the planner remembers, and all its
commands. A machine's row is there before any pool is asked for it.
Rule 2: a command that what has happened meanwhile forbids is left out and told, and the others stand.
Rule 3: a worker is taken off the fleet in the same transaction in which its machine is given up, and only
if nothing depends on it: so nothing can be placed on it, or called back to it, before the machine ends.
Rule 4: a launch owns its machine until the pool has said that the machine is gone.
Rule 5: a worker whose machine is to end is `gone` from its first heartbeat on; one that was before the end
is not lost with its machine. So a machine that was given up and comes late harms nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from sandfleet.model.drain import DrainOwner
from sandfleet.model.fleet_news import FleetNews
from sandfleet.model.ids import WorkerId
from sandfleet.model.launch import Launch, LaunchFailure, LaunchId
from sandfleet.model.machine import Machine
from sandfleet.planning.capacity_memory import CapacityMemory
from sandfleet.planning.fleet import FleetCommand
from sandfleet.ports.rollout_store import StoredRollout

ENDED_LAUNCHES_KEPT = 200
NO_LAUNCH = "no launch owns this machine"
MACHINES = "machines"
"""Who carries out what was decided about machines, as the log names it."""
AFTER_ALL = "its worker has come after all, and is not empty"
POOL_SAID_GONE = "its pool says that there is no machine of it"


@dataclass(frozen=True, slots=True)
class FleetDecision:
    """What one planner has decided in one round; None leaves a state as it stands."""

    by: DrainOwner
    commands: Sequence[FleetCommand] = ()
    memory: CapacityMemory | None = None
    rollout: StoredRollout | None = None
    """Its next state; StaleVersion, and nothing of the decision is written, if it was changed meanwhile."""
    news: Sequence[FleetNews] = ()
    """What the log is to tell beside the commands, each of which is told there anyway."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A command that was not recorded, and why."""

    command: FleetCommand
    because: str


def launch_news(event: str, launch: Launch, reason: str, *, worker_id: WorkerId | None = None) -> FleetNews:
    """Return what the log tells of a step in a launch's life."""
    detail = {
        "launch": launch.id,
        "size": launch.size,
        "version": launch.version,
        "machine": launch.machine_id,
    }
    return FleetNews(event, reason, worker_id, {name: value for name, value in detail.items() if value})


def joined_news(launch: Launch, worker_id: WorkerId, *, at: datetime) -> FleetNews:
    """Return what the log tells of a machine whose worker has reported."""
    took_s = (at - launch.requested_at).total_seconds()
    return launch_news(
        "launch_joined", launch, f"its worker has reported after {took_s:.0f} s", worker_id=worker_id
    )


class FleetStore(Protocol):
    """Launches, and the states of the planners. All times are the database's own."""

    async def memory(self) -> CapacityMemory:
        """Return what the capacity planner remembers; an empty memory before its first round."""
        ...

    async def launches(self) -> Sequence[Launch]:
        """Return those that are pending or own a machine, and the newest of the others, by id."""
        ...

    async def record(self, decision: FleetDecision, *, term: int) -> Sequence[LeftOut]:
        """Write a decision down; return what was left out of it. StaleTerm, StaleVersion of a roll-out.

        Twice is as good as once, but for what the second time tells of what was left out.
        """
        ...

    async def name_machine(self, launch_id: LaunchId, machine_id: str, *, term: int) -> bool:
        """Note what the pool calls the machine; false when there is no such launch. StaleTerm."""
        ...

    async def join(self, launch_id: LaunchId, worker_id: WorkerId, *, term: int) -> bool:
        """Note that a worker of it has joined; false when it is not pending any more. StaleTerm."""
        ...

    async def fail(self, launch_id: LaunchId, why: LaunchFailure, *, said: str, term: int) -> bool:
        """Give it up, and end the machine that it may have. StaleTerm.

        False when it is not pending any more, or when a worker of its machine has reported.
        """
        ...

    async def take_off(self, launch_id: LaunchId, *, term: int) -> bool:
        """Have no worker of its machine in the fleet, so that the machine may end. StaleTerm.

        False when it is not to end, or when its worker came after all and is not empty: then it has joined.
        """
        ...

    async def let_go(self, launch_id: LaunchId, *, term: int) -> bool:
        """Note the pool's word that there is no machine of it; false unless it was to end. StaleTerm."""
        ...

    async def lose(self, worker_id: WorkerId, *, because: str, term: int) -> bool:
        """Take a worker off the fleet whose machine is gone by its pool's word, and all on it. StaleTerm.

        False when it is not `unreachable` any more. Its launch is to end then.
        """
        ...

    async def end_orphan(self, machine: Machine, *, pool: str, term: int) -> bool:
        """Have a launch that ends a machine which none owns, so that it ends like any other. StaleTerm.

        False when a launch owns it.
        """
        ...

    async def tell(self, news: Sequence[FleetNews], *, actor: str, term: int) -> None:
        """Have the log tell it: what was seen, or done where nothing of it is recorded. StaleTerm."""
        ...

    async def remove_old(self, *, gone_for: timedelta, limit: int = 1000) -> int:
        """Delete launches whose machines have been gone so long; return how many went."""
        ...
