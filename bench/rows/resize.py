"""Growing a running sandbox from 1 to 4 GiB, against QEMU's own growth until the guest has it."""

from __future__ import annotations

from bench.bed import Bed
from bench.samples import Row, Samples, compare
from sandfleet.adapters.qemu import memory

ROUNDS = 6
SMALL_MB, LARGE_MB = 1024, 4096


async def measure(bed: Bed) -> list[Row]:
    """Measure."""
    sandbox = await bed.create(memoryMB=SMALL_MB)
    bare = await bed.bare.clone()
    await bare.machine.resize_memory(SMALL_MB)
    shape = bare.machine.manifest.shape

    async def scale(memory_mb: int) -> None:
        answer = await bed.http.post(f"/api/sandboxes/{sandbox}/scale", json={"memoryMB": memory_mb})
        answer.raise_for_status()

    async def through_the_fleet(product: Samples) -> None:
        with product.timed_ms():
            await scale(LARGE_MB)
        await scale(SMALL_MB)

    async def directly(floor: Samples) -> None:
        with floor.timed_ms():
            await memory.resize(bare.machine.monitor, shape, LARGE_MB)
            await memory.online(bare.guest, shape, LARGE_MB)
        await bare.machine.resize_memory(SMALL_MB)

    try:
        await bed.wait_pool_filled()
        product, floor = await compare(ROUNDS, through_the_fleet, directly)
    finally:
        await bare.destroy()
        await bed.delete(sandbox)
    return [
        Row(
            what="memory from 1 to 4 GiB",
            unit="ms",
            product=product,
            floor=floor,
            floor_is="the size asked of QEMU, until the guest's own total shows all of it",
            target="<= 1.3 x floor",
            meets=product.median <= 1.3 * floor.median,
        )
    ]
