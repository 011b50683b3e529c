"""Ten forks of one checkpoint at once, against ten bare clones of the template."""

from __future__ import annotations

import asyncio
import os

from bench.bare_clones import BareClone, Seat
from bench.bed import Bed
from bench.samples import Row, Samples, alternate
from bench.saved_rows import SavedRows

COUNT = 10
ROUNDS = 3
MEMORY_MB = 512
AT_ONCE = max(2, os.cpu_count() or 1)


async def measure(bed: Bed) -> list[Row]:
    """Measure."""
    product, floor = Samples(), Samples()
    sandbox = await bed.create(memoryMB=MEMORY_MB)
    checkpoint = await _checkpoint(bed, sandbox)

    async def forks() -> None:
        await bed.wait_pool_filled()
        with product.timed_ms():
            made = await asyncio.gather(*(_fork(bed, checkpoint) for _ in range(COUNT)))
        await asyncio.gather(*(bed.delete(fork) for fork in made))
        await bed.wait_machines(int(bed.setting("warm_pool_size")) + 1)

    async def clones() -> None:
        await bed.wait_pool_filled()
        seats = [await bed.bare.seat() for _ in range(COUNT)]
        at_once = asyncio.Semaphore(AT_ONCE)

        async def start(seat: Seat) -> BareClone:
            async with at_once:
                return await seat.start()

        with floor.timed_ms():
            made = await asyncio.gather(*(start(seat) for seat in seats))
        await asyncio.gather(*(clone.destroy() for clone in made))

    await alternate(ROUNDS, (forks, clones), warm_up=1)
    await bed.delete(sandbox)
    for samples in (product, floor):
        del samples.values[:-ROUNDS]
    return [
        Row(
            what=f"fork {COUNT} from one checkpoint",
            unit="ms",
            product=product,
            floor=floor,
            floor_is=f"{COUNT} bare clones of the template to the agent's hello, {AT_ONCE} at a time",
            target="<= 1.3 x floor",
            meets=product.median <= 1.3 * floor.median,
            note="Forks that start together map what was loaded once for them; each gets a new identity.",
        )
    ]


async def _checkpoint(bed: Bed, sandbox: str) -> str:
    answer = await bed.http.post(f"/api/sandboxes/{sandbox}/checkpoints", json={"name": "bench"})
    checkpoint = str(answer.raise_for_status().json()["id"])
    async with SavedRows.of(bed) as rows:
        await rows.until_durable(await rows.of_checkpoint(checkpoint))
    return checkpoint


async def _fork(bed: Bed, checkpoint: str) -> str:
    answer = await bed.http.post(f"/api/sandboxes/from-checkpoint/{checkpoint}", json={})
    record = answer.raise_for_status().json()
    return await bed.until_running(record)
