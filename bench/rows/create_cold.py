"""Create without a warm machine, and the first command after it, against a bare clone of the template."""

from __future__ import annotations

from bench.bed import COLD_MEMORY_MB, Bed
from bench.samples import Row, Samples, alternate

ROUNDS = 12


async def measure(bed: Bed) -> list[Row]:
    """Measure."""
    created, hello = Samples(), Samples()
    commanded, first = Samples(), Samples()

    async def create() -> None:
        await bed.wait_pool_filled()
        whole = Samples()
        with whole.timed_ms():
            with created.timed_ms():
                sandbox = await bed.create(memoryMB=COLD_MEMORY_MB)
            await bed.execute(sandbox, "true", "-")
        commanded.values += whole.values
        await bed.delete(sandbox)

    async def clone() -> None:
        await bed.wait_pool_filled()
        seat = await bed.bare.seat()
        whole = Samples()
        with whole.timed_ms():
            with hello.timed_ms():
                bare = await seat.start()
            await bare.execute("true", "-")
        first.values += whole.values
        await bare.destroy()

    await alternate(ROUNDS, (create, clone), warm_up=1)
    for samples in (created, hello, commanded, first):
        del samples.values[:-ROUNDS]
    return [
        _row("create, pool empty", created, hello, "a bare QEMU clone: spawn to the agent's hello"),
        _row(
            "create, pool empty, to first command done",
            commanded,
            first,
            "the same bare clone and `true` run by its agent",
        ),
    ]


def _row(what: str, product: Samples, floor: Samples, floor_is: str) -> Row:
    return Row(
        what=what,
        unit="ms",
        product=product,
        floor=floor,
        floor_is=floor_is,
        target="<= 1.3 x floor",
        meets=product.median <= 1.3 * floor.median,
        note="The product also makes the network, a new identity and limits.",
    )
