"""Two never lead at once although a clock runs slow: that is what the margin of the lease is for."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from sandfleet.controlplane.loops import leadership
from sandfleet.controlplane.loops.leadership import Leadership
from sandfleet.ports.clock import Clock
from sandfleet.testing.simulation.loop import Process
from sandfleet.testing.simulation.world import World

SLOW = 0.85
"""How fast the first leader's clock runs."""
LOOKS, LOOK_EVERY_S = 100, 0.1


class SlowClock:
    """A clock that loses time."""

    def __init__(self, right: Clock) -> None:
        self._right = right

    def now(self) -> datetime:
        """Return the wall clock."""
        return self._right.now()

    def monotonic(self) -> float:
        """Return fewer seconds than have passed."""
        return self._right.monotonic() * SLOW

    async def sleep(self, seconds: float) -> None:
        """Wait for longer than asked."""
        await self._right.sleep(seconds / SLOW)


async def leaders_at_once(world: World) -> int:
    """Let a leader that is slow hear nothing of Redis any more; return how many led at most."""
    plane = world._plane(Process("replica-1"))
    slow = Leadership(replace(plane, clock=SlowClock(plane.clock)))
    other = Leadership(world._plane(Process("replica-2")))
    await slow.tick()
    most = 0
    for _ in range(LOOKS):
        await other.tick()
        most = max(most, sum(one.term is not None for one in (slow, other)))
        await plane.clock.sleep(LOOK_EVERY_S)
    assert other.term == 2
    return most


@pytest.mark.parametrize(("margin", "most"), [(leadership.MARGIN_RATIO, 1), (0.0, 2)])
def test_a_slow_leader_has_stopped_when_another_begins_and_without_the_margin_has_not(
    monkeypatch: pytest.MonkeyPatch, margin: float, most: int
) -> None:
    monkeypatch.setattr(leadership, "MARGIN_RATIO", margin)
    world = World(0)
    world.network.is_calm = True
    assert world.loop.run_until_complete(leaders_at_once(world)) == most
