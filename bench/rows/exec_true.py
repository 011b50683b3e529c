"""`true` through a control plane, against the guest agent driven directly."""

from __future__ import annotations

from bench.bed import Bed
from bench.samples import Row, Samples, compare

ROUNDS = 200


async def measure(bed: Bed) -> list[Row]:
    """Measure."""
    sandbox = await bed.create()
    bare = await bed.bare.clone()

    async def through_the_fleet(product: Samples) -> None:
        with product.timed_ms():
            await bed.execute(sandbox, "true", "-")

    async def directly(floor: Samples) -> None:
        with floor.timed_ms():
            await bare.execute("true", "-")

    try:
        await bed.wait_pool_filled()
        product, floor = await compare(ROUNDS, through_the_fleet, directly, warm_up=10)
    finally:
        await bare.destroy()
        await bed.delete(sandbox)
    return [
        Row(
            what="exec `true`",
            unit="ms",
            product=product,
            floor=floor,
            floor_is="the same command over the agent channel of a bare clone, without any service between",
            target="floor + 5 ms, p99 floor + 20 ms",
            meets=product.median <= floor.median + 5 and product.p99 <= floor.p99 + 20,
        )
    ]
