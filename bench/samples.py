"""Measured numbers and what is said of them: median, 99th percentile, ratio to the floor."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Samples:
    """Numbers of one kind, in one unit."""

    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Return the middle value."""
        return statistics.median(self.values)

    @property
    def p99(self) -> float:
        """Return the 99th percentile by nearest rank: the maximum when there are fewer than 100."""
        ordered = sorted(self.values)
        return ordered[max(0, -(-99 * len(ordered) // 100) - 1)]

    @contextmanager
    def timed_ms(self) -> Iterator[None]:
        """Add the milliseconds that the block takes; nothing when it raises."""
        begun = time.perf_counter()
        yield
        self.values.append((time.perf_counter() - begun) * 1000)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `higher_is_better` turns the ratio's meaning round."""

    what: str
    unit: str
    product: Samples
    floor: Samples
    floor_is: str
    target: str
    meets: bool
    note: str = ""

    @property
    def ratio(self) -> float:
        """Return the product's median over the floor's."""
        return self.product.median / self.floor.median if self.floor.median else float("inf")


async def compare(
    rounds: int,
    product: Callable[[Samples], Awaitable[None]],
    floor: Callable[[Samples], Awaitable[None]],
    *,
    warm_up: int = 1,
) -> tuple[Samples, Samples]:
    """Run both sides in turn, each of which adds what it measured; return that of the rounds that count."""
    ours, least = Samples(), Samples()
    await alternate(rounds, (lambda: product(ours), lambda: floor(least)), warm_up=warm_up)
    return Samples(ours.values[-rounds:]), Samples(least.values[-rounds:])


async def alternate(rounds: int, sides: Sequence[Callable[[], Awaitable[None]]], *, warm_up: int = 1) -> None:
    """Run the sides in turn, changing who begins, so that drift of the machine hits them alike."""
    for number in range(warm_up + rounds):
        order = sides if number % 2 == 0 else list(reversed(sides))
        for side in order:
            await side()
