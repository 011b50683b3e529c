"""Many real sandboxes of one template at once: created, executed in, idle, scaled, destroyed, none lost.

The same number of bare clones stands beside them, before and not at the same time: both together
would not fit. What is read of the host (memory, CPU) is read for all of it and as a difference.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from bench.bare_clones import BareClone
from bench.bed import Bed
from bench.processor_time import process_seconds, service_seconds
from bench.samples import Row, Samples

T = TypeVar("T")
R = TypeVar("R")
COUNT = 200
MEMORY_MB, SCALED_MB = 512, 1024
AT_ONCE = max(2, os.cpu_count() or 1)
CREATES_AT_ONCE = 64
"""Enough that the worker never waits for the next, few enough that none waits for minutes."""
FIRST_AT_ONCE = 4 * AT_ONCE
"""A guest's first command is ten times as slow as the next: it is not what is measured."""
SETTLE_S = 5.0
IDLE_S = 10.0
EXEC_ROUNDS = 2
SCALED_WITHIN_S = 300.0
IDLE_PERCENT_BEYOND_MAX = 5


@dataclass(slots=True)
class Side:
    """What is measured of one side."""

    created_ms: Samples = field(default_factory=Samples)
    memory_mib: Samples = field(default_factory=Samples)
    executed_ms: Samples = field(default_factory=Samples)
    idle_percent: Samples = field(default_factory=Samples)


async def measure(bed: Bed, *, count: int = COUNT) -> list[Row]:
    """Measure."""
    await bed.wait_pool_filled()
    floor = await _bare(bed, count)
    await bed.wait_pool_filled()
    product, scaled = await _sandboxes(bed, count)
    return _rows(product, floor, scaled, count)


async def _bare(bed: Bed, count: int) -> Side:
    side = Side()
    free_mib = available_mib()
    with side.created_ms.timed_ms():
        clones = await _each(range(count), lambda _: bed.bare.clone(), at_once=AT_ONCE)
    try:
        await _each(clones, _true, at_once=FIRST_AT_ONCE)
        for _ in range(EXEC_ROUNDS):
            with side.executed_ms.timed_ms():
                await _each(clones, _true)
        await asyncio.sleep(SETTLE_S)
        side.memory_mib.values.append((free_mib - available_mib()) / count)
        qemus = [clone.pid for clone in clones]
        before = process_seconds(qemus)
        await asyncio.sleep(IDLE_S)
        side.idle_percent.values.append((process_seconds(qemus) - before) / IDLE_S * 100)
    finally:
        await _each(clones, lambda clone: clone.destroy(), at_once=AT_ONCE)
    return side


async def _true(clone: BareClone) -> None:
    await clone.execute("true", "-")


async def _sandboxes(bed: Bed, count: int) -> tuple[Side, Samples]:
    side, scaled = Side(), Samples()
    free_mib = available_mib()
    with side.created_ms.timed_ms():
        ids = await _each(range(count), lambda _: bed.create(memoryMB=MEMORY_MB), at_once=CREATES_AT_ONCE)
    await _each(ids, lambda one: bed.execute(one, "true", "-"), at_once=FIRST_AT_ONCE)
    for _ in range(EXEC_ROUNDS):
        with side.executed_ms.timed_ms():
            await _each(ids, lambda one: bed.execute(one, "true", "-"))
    await asyncio.sleep(SETTLE_S)
    side.memory_mib.values.append((free_mib - available_mib()) / count)
    qemus = [bed.pid_of(one) for one in ids]
    before = process_seconds(qemus) + service_seconds(bed.data_dir)
    await asyncio.sleep(IDLE_S)
    spent = process_seconds(qemus) + service_seconds(bed.data_dir) - before
    side.idle_percent.values.append(spent / IDLE_S * 100)
    with scaled.timed_ms():
        await _each(ids, lambda one: _scale(bed, one))
    await _each(ids, lambda one: bed.execute(one, "true", "-"))
    await _each(ids, bed.delete)
    await bed.wait_machines(int(bed.setting("warm_pool_size")))
    return side, scaled


async def _scale(bed: Bed, sandbox: str) -> None:
    """Have the sandbox scaled; an answer that comes before the end is followed by a look at the size."""
    path = f"/api/sandboxes/{sandbox}"
    answer = await bed.http.post(f"{path}/scale", json={"memoryMB": SCALED_MB})
    if answer.status_code not in (200, 202):
        raise RuntimeError(f"scale: {answer.status_code} {answer.text}")
    deadline = time.monotonic() + SCALED_WITHIN_S
    while (await bed.http.get(path)).json()["memoryMB"] != SCALED_MB:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{sandbox} was not scaled within {SCALED_WITHIN_S:g} s")
        await asyncio.sleep(0.5)


async def _each(things: Iterable[T], work: Callable[[T], Awaitable[R]], *, at_once: int = COUNT) -> list[R]:
    """Do the work for all of them, some at a time; one failure is the failure of all."""
    room = asyncio.Semaphore(at_once)

    async def one(thing: T) -> R:
        async with room:
            return await work(thing)

    return list(await asyncio.gather(*(one(thing) for thing in things)))


def available_mib() -> float:
    """Return what the host could still give."""
    found = re.search(r"^MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert found is not None
    return int(found.group(1)) / 1024


def _rows(product: Side, floor: Side, scaled: Samples, count: int) -> list[Row]:
    return [
        _created(product, floor, scaled, count),
        _executed(product, floor, count),
        Row(
            what=f"{count} sandboxes at once: memory of the host for each",
            unit="MiB",
            product=product.memory_mib,
            floor=floor.memory_mib,
            floor_is=f"what {count} bare clones take, after the same commands",
            target="<= 1.1 x floor",
            meets=product.memory_mib.median <= 1.1 * floor.memory_mib.median,
            note="By what the host has available before and after: page tables and kernel memory count.",
        ),
        Row(
            what=f"{count} sandboxes at once: idle, everything together",
            unit="% of a core",
            product=product.idle_percent,
            floor=floor.idle_percent,
            floor_is=f"the QEMUs of {count} idle bare clones",
            target=f"floor + {IDLE_PERCENT_BEYOND_MAX} %",
            meets=product.idle_percent.median <= floor.idle_percent.median + IDLE_PERCENT_BEYOND_MAX,
            note="Control plane, worker, both stores and all QEMUs.",
        ),
    ]


def _created(product: Side, floor: Side, scaled: Samples, count: int) -> Row:
    story = f"were scaled in {scaled.median / 1000:.0f} s, ran one more and were destroyed"
    return Row(
        what=f"{count} sandboxes at once: created",
        unit="s",
        product=_seconds(product.created_ms),
        floor=_seconds(floor.created_ms),
        floor_is=f"{count} bare clones to the agent's hello, {AT_ONCE} at a time",
        target="all, none lost",
        meets=True,
        note=f"All ran commands, {story}; the loss of one would have ended the benchmark.",
    )


def _executed(product: Side, floor: Side, count: int) -> Row:
    return Row(
        what=f"{count} sandboxes at once: `true` in all of them",
        unit="s",
        product=_seconds(product.executed_ms),
        floor=_seconds(floor.executed_ms),
        floor_is=f"the same command by {count} agents driven directly, all at once",
        target="<= 1.2 x floor",
        meets=product.executed_ms.median <= 1.2 * floor.executed_ms.median,
    )


def _seconds(samples: Samples) -> Samples:
    return Samples([ms / 1000 for ms in samples.values])
