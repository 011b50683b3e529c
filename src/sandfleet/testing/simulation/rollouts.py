"""Versions that come to a simulated fleet: how they are, who promotes them, and how it must end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sandfleet.model.worker import WorkerState
from sandfleet.planning.rollout_state import RolloutStage
from sandfleet.testing.simulation.clients import Client
from sandfleet.testing.simulation.replica import Request
from sandfleet.testing.simulation.versions import DEAF, FAINT, GOOD, LAME, UNBOOTABLE

if TYPE_CHECKING:
    from sandfleet.testing.simulation.host import Host
    from sandfleet.testing.simulation.world import World

FIRST, NEXT = "1", "2"
FAINTS_AFTER_S, LIES_FOR_S = 5.0, 9.0
CALLED_OFF_SHARE = 0.2
_TRIALS = (RolloutStage.BOOT_TEST, RolloutStage.CANARY)
_AWAY = (WorkerState.GONE, WorkerState.UNREACHABLE)


def is_bad(world: World, version: str) -> bool:
    """Whether the version may not come to the fleet."""
    return version == NEXT and world.profile.next_version != GOOD


def boots(world: World, version: str) -> bool:
    """Whether a worker comes up on a machine of the version."""
    return not (version == NEXT and world.profile.next_version == UNBOOTABLE)


def afflict(world: World, host: Host) -> None:
    """Have a host be as its version is."""
    kind = world.profile.next_version if host.version == NEXT else GOOD
    host.is_lame, host.is_deaf = kind == LAME, kind == DEAF
    if kind == FAINT:
        world.later(FAINTS_AFTER_S, _faint, world, host)


def _faint(world: World, host: Host) -> None:
    """Fall silent again and again as long as somebody looks."""
    rollout = world.database.rollouts[-1].rollout
    if host.is_burnt or rollout.stage not in _TRIALS:
        return
    world.later(LIES_FOR_S + FAINTS_AFTER_S, _faint, world, host)
    if host.is_up:
        world.trace.add(host.process.name, "falls silent")
        host.crash()
        world.later(LIES_FOR_S, world.begin_host_again, host)


@dataclass
class Promotion:
    """An operator who promotes the next version, and may think better of it."""

    world: World
    _operators: int = field(default=0, init=False)

    def begin(self) -> None:
        """Have it happen some time in the trouble."""
        dice, world = self.world.dice("promotion"), self.world
        if not world.profile.has_rollout:
            return
        at_s = dice.uniform(0.5, 0.7 * world.profile.trouble_s)
        world.later(at_s, self._ask, "/admin/rollouts", {"version": NEXT})
        if dice.random() < CALLED_OFF_SHARE:
            world.later(at_s + dice.uniform(1.0, 40.0), self._ask, "/admin/rollouts/{number}/cancel", None)

    def _ask(self, route: str, body: dict[str, Any] | None) -> None:
        world, self._operators = self.world, self._operators + 1
        values = {"number": "1"} if body is None else {}
        request = Request("POST", route, values, body, f"promotion-{self._operators}")
        operator = Client(world, f"promoter-{self._operators}")
        world.chores.append(world.loop.create_task(operator.ask(request)))


def unsettled_rollouts(world: World) -> Sequence[str]:
    """Return what a roll-out has still to do: it ends, and the fleet is of one version."""
    if not world.profile.has_rollout:
        return []
    newest = world.database.rollouts[-1] if world.database.rollouts else None
    if newest is None:
        return ["nothing was rolled out"]
    rollout = newest.rollout
    found = [f"the roll-out is {rollout.stage}: {newest.said}"] if rollout.is_under_way else []
    return found + [
        f"{worker.id} is {worker.state} and of version {worker.worker_version}, {rollout.target} is wanted"
        for worker in world.database.workers.values()
        if worker.state not in _AWAY and worker.worker_version != rollout.target
    ]
