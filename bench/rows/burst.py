"""A hundred creates at once on one host, against a hundred bare clones with the same concurrency."""

from __future__ import annotations

import asyncio
import os

from bench.bare_clones import BareClone, Seat
from bench.bed import Bed
from bench.samples import Row, Samples

COUNT = 100
MEMORY_MB = 512
AT_ONCE = max(2, os.cpu_count() or 1)
"""The worker's own default: more at a time makes each slower and all no faster."""


async def measure(bed: Bed) -> list[Row]:
    """Measure."""
    await bed.wait_pool_filled()
    floor = await _bare(bed)
    product = await _creates(bed)
    return [
        Row(
            what=f"burst of {COUNT} creates, in all",
            unit="s",
            product=product,
            floor=floor,
            floor_is=f"{COUNT} bare clones to the agent's hello, as many at a time as the worker makes",
            target="all succeed, <= 1.2 x floor",
            meets=product.median <= 1.2 * floor.median,
            note="All of them ran a command before they were counted as made.",
        )
    ]


async def _creates(bed: Bed) -> Samples:
    total = Samples()
    pool = int(bed.setting("warm_pool_size"))
    with total.timed_ms():
        made = await asyncio.gather(*(bed.create(memoryMB=MEMORY_MB) for _ in range(COUNT)))
    await asyncio.gather(*(bed.execute(sandbox, "true", "-") for sandbox in made))
    await asyncio.gather(*(bed.delete(sandbox) for sandbox in made))
    await bed.wait_machines(pool)
    return _seconds(total)


async def _bare(bed: Bed) -> Samples:
    total = Samples()
    seats = [await bed.bare.seat() for _ in range(COUNT)]
    at_once = asyncio.Semaphore(AT_ONCE)

    async def start(seat: Seat) -> BareClone:
        async with at_once:
            return await seat.start()

    with total.timed_ms():
        clones = await asyncio.gather(*(start(seat) for seat in seats))
    await asyncio.gather(*(clone.destroy() for clone in clones))
    return _seconds(total)


def _seconds(samples: Samples) -> Samples:
    return Samples([ms / 1000 for ms in samples.values])
