"""What an idle sandbox costs the host beyond the shared template, against a bare clone."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from bench.bed import Bed
from bench.samples import Row, Samples

COUNT = 8
SETTLE_S = 5.0
MEMORY_MB = 512


async def measure(bed: Bed) -> list[Row]:
    """Measure."""
    sandboxes = [await bed.create(memoryMB=MEMORY_MB) for _ in range(COUNT)]
    clones = [await bed.bare.clone() for _ in range(COUNT)]
    await bed.wait_pool_filled()
    await asyncio.sleep(SETTLE_S)
    product = Samples([private_mib(bed.pid_of(sandbox)) for sandbox in sandboxes])
    floor = Samples([private_mib(clone.pid) for clone in clones])
    for sandbox in sandboxes:
        await bed.delete(sandbox)
    for clone in clones:
        await clone.destroy()
    return [
        Row(
            what="memory per idle sandbox beyond the template",
            unit="MiB",
            product=product,
            floor=floor,
            floor_is="the private pages of a bare clone's QEMU",
            target="<= 1.1 x floor",
            meets=product.median <= 1.1 * floor.median,
            note="Private pages and page tables of QEMU; a sandbox has an identity and its limits.",
        )
    ]


def private_mib(pid: int) -> float:
    """Return what would come free if the process ended."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    private = sum(int(kib) for kib in re.findall(r"^Private_(?:Clean|Dirty):\s*(\d+)", rollup, re.MULTILINE))
    tables = re.search(r"^VmPTE:\s*(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return (private + int(tables.group(1) if tables else 0)) / 1024
