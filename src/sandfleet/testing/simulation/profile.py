"""What a seed decides beforehand: how large the world is, and what goes wrong in it how often."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from sandfleet.testing.simulation.network import Weather
from sandfleet.testing.simulation.versions import GOOD, KINDS

_PASSING = (
    "kill replica",
    "pause replica",
    "stop replica",
    "kill worker",
    "pause worker",
    "cut worker",
    "flush redis",
    "redis away",
    "postgres away",
    "objects away",
)
FAULTS = (*_PASSING, "machine dies", "drain worker")
LOST_SHARE = 0.15
POOL_EVERY = 8
"""Of so many seeds one has a machine pool: the others stay what they were."""
ROLLOUT_EVERY = 16
"""Of so many one has a pool and a roll-out."""
SPARING = (*_PASSING, "crowd worker", "take machine")
"""Faults that no sandbox may be lost by."""
SIZES_EVERY = 4
"""Of so many seeds one has sandboxes whose sizes follow their use."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One seed's world."""

    replicas: int
    hosts: int
    clients: int
    actions: int
    host_memory_mib: int
    has_objects: bool
    trouble_s: float
    fault_every_s: float
    faults: tuple[str, ...]
    store: Weather
    redis: Weather
    worker: Weather
    http: Weather
    wrong_clock_s: float
    has_many_moves: bool
    loses_a_host: bool
    """Whether somebody says of a host that was cut off that it is no more, and it speaks again."""
    has_pool: bool = False
    """Whether hosts come and go with the load."""
    idle_reserve: int = 0
    has_rollout: bool = False
    """Whether all hosts come from the pool, and a new version comes to them."""
    next_version: str = GOOD
    """What it is like."""
    has_automatic_sizes: bool = False
    """Whether owners have sizes follow their use, and lock them."""


def profile_of(seed: int) -> Profile:
    """Return what the seed stands for."""
    if seed % ROLLOUT_EVERY == ROLLOUT_EVERY - 2:
        return _with_rollout(replace(_usual(seed), has_rollout=True), seed)
    return _usual(seed)


def _usual(seed: int) -> Profile:
    dice = random.Random(f"profile {seed}")
    faults = tuple(name for name in FAULTS if dice.random() < 0.5)
    badness = dice.choice((0.0, 0.3, 1.0, 4.0))
    replicas, hosts = dice.choice((2, 2, 2, 3)), dice.choice((1, 2, 2, 3))
    return Profile(
        replicas=replicas,
        hosts=hosts,
        clients=dice.randint(2, 4),
        actions=dice.randint(4, 8),
        host_memory_mib=1024 * dice.randint(2, 6),
        has_objects=dice.random() < 0.85,
        trouble_s=dice.uniform(8.0, 25.0),
        fault_every_s=dice.choice((1.5, 3.0, 6.0)),
        faults=faults or ("kill replica",),
        store=Weather(lost=0.01 * badness, unanswered=0.02 * badness, late=0.03 * badness),
        redis=Weather(lost=0.05 * badness, unanswered=0.02 * badness, late=0.03 * badness),
        worker=Weather(
            lost=0.03 * badness, unanswered=0.05 * badness, late=0.08 * badness, twice=0.03 * badness
        ),
        http=Weather(lost=0.03 * badness, unanswered=0.06 * badness, late=0.05 * badness),
        wrong_clock_s=dice.choice((0.0, 0.2, 2.0)),
        has_many_moves=dice.random() < 0.4,
        loses_a_host=hosts > 1 and random.Random(f"lost host {seed}").random() < LOST_SHARE,
        has_pool=seed % POOL_EVERY == POOL_EVERY - 2,
        has_automatic_sizes=seed % SIZES_EVERY == 1,
        idle_reserve=random.Random(f"reserve {seed}").randint(0, 1),
    )


def _with_rollout(profile: Profile, seed: int) -> Profile:
    dice = random.Random(f"rollout {seed}")
    faults = tuple(name for name in SPARING if dice.random() < 0.5)
    return replace(
        profile,
        faults=faults or ("kill replica",),
        hosts=dice.choice((2, 3)),
        host_memory_mib=1024 * dice.choice((4, 6)),
        has_objects=True,
        loses_a_host=False,
        next_version=dice.choice(KINDS),
    )
