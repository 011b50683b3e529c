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
    packing,
    placements,
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


PURE_ROWS = {"placements": placements.measure, "packing": packing.measure}
"""Rows that compute: they need no fleet."""
ALL_ROWS = [*ROWS, *PURE_ROWS]


async def run(names: list[str]) -> None:
    """Measure the rows and write the page; a part of the rows is only shown."""
    facts = report.machine_facts()
    rows: list[Row] = []
    on_fleet = [name for name in names if name in ROWS]
    if on_fleet:
        async with bed() as laid:
            facts["accelerator"] = await laid.bare.accelerator()
            for name in on_fleet:
                sys.stderr.write(f"{name} ...\n")
                rows += await ROWS[name](laid)
                await laid.wait_pool_filled()
    for name in names:
        if name in PURE_ROWS:
            sys.stderr.write(f"{name} ...\n")
            rows += PURE_ROWS[name]()
    page = report.page(rows, facts=facts, at=SystemClock().now())
    if names == ALL_ROWS:
        RESULTS.write_text(page)
    sys.stdout.write(page)


if __name__ == "__main__":
    wanted = sys.argv[1:] or ALL_ROWS
    if unknown := set(wanted) - set(ALL_ROWS):
        sys.exit(f"unknown row {', '.join(sorted(unknown))}; there are {', '.join(ALL_ROWS)}")
    uvloop.run(run(wanted))
