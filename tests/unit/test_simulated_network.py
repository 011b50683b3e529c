"""The simulated network: what is asked of it comes to an end, whoever has died meanwhile."""

from __future__ import annotations

import asyncio
import random

from sandfleet.testing.simulation.clock import VirtualClock
from sandfleet.testing.simulation.loop import Process, VirtualLoop
from sandfleet.testing.simulation.network import Network, Weather

SEEDS = 20


async def left_running(loop: VirtualLoop, seed: int) -> int:
    """Kill a process while it takes its leave of somebody; return how much of it runs on."""
    network, process = Network(loop, random.Random(seed)), Process("replica")

    async def takes_its_leave() -> None:
        await network.post(process, Weather(), lambda: None, patience_s=1.0)

    process.start(loop, takes_its_leave(), name="takes its leave")
    await asyncio.sleep(0)
    assert network.sent == 1
    process.is_dead = True  # a group of tasks would not hand a second order to end on
    await VirtualClock(loop).sleep(60.0)
    return len(process.tasks)


def test_what_unwinds_in_a_killed_process_does_not_wait_for_ever() -> None:
    for seed in range(SEEDS):
        loop = VirtualLoop()  # type: ignore[abstract]
        assert loop.run_until_complete(left_running(loop, seed)) == 0
