"""What an operator may choose about the number of workers, and the sum in which that number is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sandfleet.model.launch import MachineSize
from sandfleet.planning.placement import PlacementPolicy


@dataclass(frozen=True, slots=True)
class CapacityPolicy:
    """Bounds, budgets and pauses. `sizes` stands in the order of preference."""

    sizes: Sequence[MachineSize]
    placement: PlacementPolicy = field(default_factory=PlacementPolicy)
    workers_min: int = 1
    workers_max: int = 100
    idle_reserve: int = 1
    """Workers that stand empty, so that a burst need not wait for a machine's boot."""
    machines_max: Mapping[str, int] = field(default_factory=dict)
    launches_at_once: int = 10
    drains_at_once: int = 2
    launch_pause_s: float = 10.0
    """Between launches for which nobody waits."""
    drain_pause_s: float = 120.0
    """Between the last launch or drain and the next drain."""
    calm_s: float = 720.0
    """The fleet shrinks only so far that the peak of this time would still fit."""
    trend_s: float = 300.0
    age_s_min: float = 600.0
    launch_s_max: float = 900.0
    worth_min: float = 1.2
    """A worker is emptied if its share of the price is this many times its share of what is disturbed."""
    returned_pause_s: float = 1800.0
    """For how long a worker whose drain was called off is not chosen again."""


@dataclass(frozen=True, slots=True)
class DesiredSum:
    """The number of workers as it should be. Everything that asks for workers is in it once."""

    occupied: int
    """Workers that hold something when all demand is placed; machines still to be launched among them."""
    standing: int
    """Workers that are there and take nothing now: cordoned, or silent for a moment."""
    idle_reserve: int
    surge: int
    workers_min: int
    workers_max: int

    @property
    def desired(self) -> int:
        """The number."""
        wanted = self.occupied + self.standing + self.idle_reserve
        return min(max(wanted, self.workers_min), self.workers_max) + self.surge

    def __str__(self) -> str:
        return (
            f"{self.occupied} occupied + {self.standing} standing + {self.idle_reserve} reserve + "
            f"{self.surge} surge, within {self.workers_min} to {self.workers_max}"
        )
