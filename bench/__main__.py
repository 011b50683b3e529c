"""`python -m bench [ROW ...]`: run all rows, or those named, and write bench/RESULTS.md."""

from __future__ import annotations

import sys
from pathlib import Path

import uvloop

from bench import report
from bench.bed import bed
from bench.rows import (
    api_reads,
    burst,
    checkpoint,
    create_cold,
    create_warm,
    density,
    exec_true,
    failover,
    files,
    fork,
    hibernate,
    memory,
    resize,
)
from bench.samples import Row
from sandfleet.adapters.clock import SystemClock

RESULTS = Path(__file__).parent / "RESULTS.md"
ROWS = {
    "create_warm": create_warm.measure,
    "create_cold": create_cold.measure,
    "exec_true": exec_true.measure,
    "files": files.measure,
    "memory": memory.measure,
    "burst": burst.measure,
    "api_reads": api_reads.measure,
    "hibernate": hibernate.measure,
    "checkpoint": checkpoint.measure,
    "fork": fork.measure,
    "resize": resize.measure,
    "density": density.measure,
    "failover": failover.measure,
}


async def run(names: list[str]) -> None:
    """Measure the rows and write the page; a part of the rows is only shown."""
    facts = report.machine_facts()
    rows: list[Row] = []
    async with bed() as laid:
        facts["accelerator"] = await laid.bare.accelerator()
        for name in names:
            sys.stderr.write(f"{name} ...\n")
            rows += await ROWS[name](laid)
            await laid.wait_pool_filled()
    page = report.page(rows, facts=facts, at=SystemClock().now())
    if names == list(ROWS):
        RESULTS.write_text(page)
    sys.stdout.write(page)


if __name__ == "__main__":
    wanted = sys.argv[1:] or list(ROWS)
    if unknown := set(wanted) - set(ROWS):
        sys.exit(f"unknown row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    uvloop.run(run(wanted))
