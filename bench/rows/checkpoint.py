"""How long a running guest stands still for a checkpoint, against the least that QEMU needs for one."""

from __future__ import annotations

from bench import bare_saves
from bench.bed import Bed
from bench.guest_memory import holding
from bench.samples import Row, Samples, alternate
from bench.saved_rows import SavedRows

ROUNDS = 8
MEMORY_MB = 1536
USED_MIB = 1024
FROZEN_MS_MAX = 300
PIDS_MAX = 512


async def measure(bed: Bed) -> list[Row]:
    """Measure."""
    product, floor = Samples(), Samples()
    sandbox = await bed.create(memoryMB=MEMORY_MB)
    await bed.execute(sandbox, *holding(USED_MIB))
    bare = await bed.bare.clone()
    await bare.machine.resize_memory(MEMORY_MB)
    await bare.guest.set_limits(memory_mib=MEMORY_MB, cpu_percent=100, pids_max=PIDS_MAX)
    await bare.execute(*holding(USED_MIB))
    url = f"/api/sandboxes/{sandbox}/checkpoints"

    async def through_the_fleet() -> None:
        answer = await bed.http.post(url, json={"name": f"bench-{len(product.values)}"})
        checkpoint = answer.raise_for_status().json()["id"]
        snapshot = await rows.of_checkpoint(checkpoint)
        await rows.until_durable(snapshot)
        product.values.append(await rows.pause_ms(snapshot))
        (await bed.http.delete(f"{url}/{checkpoint}")).raise_for_status()

    async def directly() -> None:
        await bare_saves.freeze(bare, frozen=floor)

    try:
        await bed.wait_pool_filled()
        async with SavedRows.of(bed) as rows:
            await alternate(ROUNDS, (through_the_fleet, directly), warm_up=1)
    finally:
        await bare.destroy()
        await bed.delete(sandbox)
    for samples in (product, floor):
        del samples.values[:-ROUNDS]
    return [
        Row(
            what="checkpoint of a running sandbox, guest frozen",
            unit="ms",
            product=product,
            floor=floor,
            floor_is="stop, write the devices alone, switch both disks to open overlays, run",
            target=f"< {FROZEN_MS_MAX} ms",
            meets=product.p99 < FROZEN_MS_MAX,
            note=f"A guest of {MEMORY_MB} MiB with {USED_MIB} MiB of random bytes in its memory. "
            "The floor has no memory to save; the product protects all of it before the guest runs on.",
        )
    ]
