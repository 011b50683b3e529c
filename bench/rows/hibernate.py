"""Hibernate and wake, against QEMU's own save and load of the same guest."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from bench import bare_saves
from bench.bare_clones import BareClone
from bench.bed import Bed
from bench.guest_memory import holding
from bench.samples import Row, Samples, alternate
from bench.saved_rows import SavedRows

ROUNDS = 6
MEMORY_MB = 1024
USED_MIB = 256
TARGET = "<= 1.2 x floor"


async def measure(bed: Bed) -> list[Row]:
    """Measure."""
    frozen, total, woken = Samples(), Samples(), Samples()
    bare_frozen, bare_total, bare_woken, unsynced = Samples(), Samples(), Samples(), Samples()
    sandbox = await bed.create(memoryMB=MEMORY_MB)
    await bed.execute(sandbox, *holding(USED_MIB))
    bare = await _bare(bed)

    async def through_the_fleet() -> None:
        await bed.wait_pool_filled()
        with total.timed_ms():
            answer = await bed.http.post(f"/api/sandboxes/{sandbox}/hibernate")
        snapshot = answer.raise_for_status().json()["hibernationKey"]
        frozen.values.append(await rows.pause_ms(snapshot))
        await rows.until_durable(snapshot)
        with woken.timed_ms():
            await bed.execute(sandbox, "true", "-")

    async def directly() -> None:
        nonlocal bare
        directory = Path(tempfile.mkdtemp(prefix="bench-save-", dir=bed.bare.host.config.data_dir))
        with bare_total.timed_ms():
            saved = await bare_saves.save(bare, directory, frozen=bare_frozen, written=unsynced)
        await bare.destroy()
        bare = await bare_saves.load(bed.bare, saved, answered=bare_woken)
        shutil.rmtree(directory)

    async with SavedRows.of(bed) as rows:
        await alternate(ROUNDS, (through_the_fleet, directly), warm_up=1)
    await bare.destroy()
    await bed.delete(sandbox)
    for samples in (frozen, total, woken, bare_frozen, bare_total, bare_woken, unsynced):
        del samples.values[:-ROUNDS]
    until_synced = (
        f"stop, QEMU's save to a file, and its sync ({unsynced.median:.0f} ms of it before the sync)"
    )
    return [
        _row("hibernate, guest frozen", frozen, bare_frozen, until_synced),
        _row("hibernate, until the call answers", total, bare_total, "the same, and the end of QEMU"),
        _row(
            "wake by a command, to its end",
            woken,
            bare_woken,
            "QEMU's load of that file, the agent's hello and the same command",
        ),
    ]


async def _bare(bed: Bed) -> BareClone:
    bare = await bed.bare.clone()
    await bare.machine.resize_memory(MEMORY_MB)
    await bare.execute(*holding(USED_MIB))
    return bare


def _row(what: str, product: Samples, floor: Samples, floor_is: str) -> Row:
    return Row(
        what=what,
        unit="ms",
        product=product,
        floor=floor,
        floor_is=floor_is,
        target=TARGET,
        meets=product.median <= 1.2 * floor.median,
        note=f"A guest of {MEMORY_MB} MiB with {USED_MIB} MiB of random bytes in its memory. "
        "The product also reads every byte back for its digest.",
    )
