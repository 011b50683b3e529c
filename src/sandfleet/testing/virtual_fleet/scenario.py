"""A fleet and a load by a few numbers, for the command line and the benchmarks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sandfleet.model.launch import MachineSize
from sandfleet.model.resources import Resources
from sandfleet.planning.capacity_policy import CapacityPolicy
from sandfleet.planning.placement import PlacementPolicy
from sandfleet.testing.virtual_fleet.generate import Load, generated
from sandfleet.testing.virtual_fleet.run import Course, RolloutCourse, Run, run
from sandfleet.testing.virtual_fleet.trace import Arrival

TYPICAL = Resources(4096, 1, 20480)
_MEMORY_PER_CPU_MIB = 4096
_DISK_PER_MEMORY = 40
_HOLES = 1.02
"""What a first load needs above the sum of its memory."""
_ROUNDS_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything else follows from these."""

    workers_max: int
    sandboxes: int
    hours: float
    seed: int = 0
    worker_memory_mib: int = 131072
    boot_s: float = 90.0
    idle_reserve: int = 1
    rollout_after_h: float | None = None
    swing: float = 0.5
    round_s: float = 15.0

    def trace(self) -> Sequence[Arrival]:
        """Return the generated load."""
        return generated(Load(self.sandboxes, self.hours, swing=self.swing), seed=self.seed)

    def policy(self) -> CapacityPolicy:
        """Return the bounds; a large fleet changes by more machines at once."""
        memory_mib = self.worker_memory_mib
        size = MachineSize(
            "simulated",
            "usual",
            Resources(memory_mib, memory_mib // _MEMORY_PER_CPU_MIB, memory_mib * _DISK_PER_MEMORY),
            price_per_hour=1.0,
            boot_s=self.boot_s,
        )
        return CapacityPolicy(
            sizes=[size],
            placement=PlacementPolicy(cpu_ratio_max=4.0),
            workers_max=self.workers_max,
            idle_reserve=self.idle_reserve,
            launches_at_once=max(10, self.workers_max // 10),
            drains_at_once=max(2, self.workers_max // 25),
        )

    def course(self, trace: Sequence[Arrival]) -> Course:
        """Return how it is run: the fleet begins as large as its first load asks for."""
        first_mib = sum(one.memory_mib for one in trace if one.at_s == 0)
        needed = math.ceil(_HOLES * first_mib / self.worker_memory_mib) + self.idle_reserve
        rollout_s = None if self.rollout_after_h is None else self.rollout_after_h * 3600
        return Course(
            self.policy(),
            TYPICAL,
            workers_first=max(1, min(needed, self.workers_max)),
            round_s=self.round_s,
            seed=self.seed,
            rollout=None if rollout_s is None else RolloutCourse(rollout_s, "2"),
        )

    @property
    def played_s(self) -> float:
        """How much of it is played: so many rounds at most."""
        return min(self.hours * 3600, _ROUNDS_MAX * self.round_s)

    def play(
        self, trace: Sequence[Arrival], *, on_round: Callable[[float], None] = lambda share: None
    ) -> Run:
        """Run it to its end; `on_round` is told how much of it is done."""
        course = replace(
            self.course(trace), on_plan=lambda fleet, plan: on_round(fleet.now_s / max(1.0, self.played_s))
        )
        return run(trace, course, until_s=self.played_s)


def hours_of(trace: Sequence[Arrival]) -> float:
    """Return after how many hours a trace has ended, if everybody gets his place at once."""
    return max(one.at_s + one.lifetime_s for one in trace) / 3600
