"""`python -m bench [ROW ...]`: run all rows, or those named, and write bench/RESULTS.md.

A row that fails, or takes longer than it may, is cleared away and named in the table; the others are
measured all the same. All of them together have a quarter of an hour: what has not begun by then is named
as well. The exit code is 1 if a row is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from bench import report
from bench.bed import Bed, bed
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
    migrate,
    packing,
    placements,
    resize,
)
from bench.samples import Row
from sandfleet.adapters.clock import SystemClock

RESULTS = Path(__file__).parent / "RESULTS.md"
ALL_WITHIN_S = 840.0
"""With a minute for the fleet's start and end, a quarter of an hour."""
ROW_WITHIN_S = 420.0
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
    "migrate": migrate.measure,
    "density": density.measure,
    "failover": failover.measure,
}


PURE_ROWS = {"placements": placements.measure, "packing": packing.measure}
"""Rows that compute: they need no fleet, and their work has an end of its own."""


async def run(names: list[str]) -> bool:
    """Measure the rows and write the page; a part of the rows is only shown. Say whether none is missing."""
    facts = report.machine_facts()
    missing: dict[str, str] = {}
    rows = [row for name in names if name in PURE_ROWS for row in PURE_ROWS[name]()]
    on_fleet = [name for name in names if name in ROWS]
    if on_fleet:
        rows = [*await _measured_on_fleet(on_fleet, facts, missing), *rows]
    page = report.page(rows, facts=facts, at=SystemClock().now(), missing=missing)
    if names == [*ROWS, *PURE_ROWS]:
        RESULTS.write_text(page)
    sys.stdout.write(page)
    return not missing


async def _measured_on_fleet(names: list[str], facts: dict[str, str], missing: dict[str, str]) -> list[Row]:
    """Measure on one fleet what needs one, and note what could not be measured."""
    rows: list[Row] = []
    async with bed() as laid:
        facts["accelerator"] = await laid.bare.accelerator()
        ends_at = time.monotonic() + ALL_WITHIN_S
        for name in names:
            begun = time.monotonic()
            if begun >= ends_at:
                missing[name] = "the time for all rows was over"
                continue
            try:
                async with asyncio.timeout(min(ROW_WITHIN_S, ends_at - begun)):
                    rows += await ROWS[name](laid)
                    await laid.wait_pool_filled()
            except Exception as error:  # noqa: BLE001 -- whatever became of one row, the others are measured
                missing[name] = await _given_up(laid, error, seconds=time.monotonic() - begun)
            outcome = missing.get(name, "measured")
            sys.stderr.write(f"{name}: {outcome}, {time.monotonic() - begun:.0f} s\n")
    return rows


async def _given_up(laid: Bed, error: Exception, *, seconds: float) -> str:
    """Clear away what the row left, and return in a line why it was given up."""
    reason = "it took too long" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
    try:
        await laid.clear()
    except Exception as left:  # noqa: BLE001 -- the next row may still do
        reason += f"; and what it left could not be cleared away: {left}"
    return " ".join(f"given up after {seconds:.0f} s: {reason}".split())[:300]


def wanted_rows(arguments: Sequence[str]) -> list[str]:
    """Return the rows that the command line names; all of them if it names none."""
    every_row = [*ROWS, *PURE_ROWS]
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the product beside its floor. All rows are written to bench/RESULTS.md, "
        "a part of them is only shown. The exit code is 1 if a row is missing.",
    )
    named = f"what is measured; without any, all: {', '.join(every_row)}"
    parser.add_argument("rows", nargs="*", metavar="ROW", help=named)
    wanted: list[str] = parser.parse_args(arguments).rows
    if unknown := sorted(set(wanted) - set(every_row)):
        parser.error(f"unknown row {', '.join(unknown)}; there are {', '.join(every_row)}")
    return wanted or every_row


if __name__ == "__main__":
    sys.exit(0 if uvloop.run(run(wanted_rows(sys.argv[1:]))) else 1)
