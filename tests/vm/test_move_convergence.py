"""A guest that writes its memory faster than it is copied stays, or its memory follows it, by policy."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.vm.moving import ID, SIZES, Move, said, some_workers, stopped
from tests.vm.worker_process import WorkerProcess

from sandfleet.adapters.qemu.config import ImageFiles

# Each page has its place and the round in which it was written: a page that was lost, or is old, is found.
WRITER = """
import hashlib, os, sys
PAGE, COUNT = 4096, 24576
memory = bytearray(PAGE * COUNT)
number = 0
while not os.path.exists("/tmp/stop"):
    number += 1
    mark = number.to_bytes(8, "big")
    for page in range(COUNT):
        memory[page * PAGE : page * PAGE + 8] = mark
        memory[page * PAGE + 8 : page * PAGE + 12] = page.to_bytes(4, "big")
    with open("/tmp/number.new", "w") as file:
        file.write(str(number))
    os.rename("/tmp/number.new", "/tmp/number")
wrong = [
    page
    for page in range(COUNT)
    if memory[page * PAGE : page * PAGE + 12] != mark + page.to_bytes(4, "big")
]
sys.exit(1 if wrong else 0)
"""
TOO_SLOW = {"mib_per_s_max": 64, "downtime_ms_max": 30, "rounds_max": 8, "may_throttle": False}
"""Ninety-six MiB that are written all the time are never fewer than two."""


async def begin_writing(worker: WorkerProcess) -> None:
    started = await worker.start(ID, **SIZES)
    assert started.get("state") == "running", started
    await said(worker, ID, f"cat > /workspace/m.py <<'E'\n{WRITER}\nE", epoch=1)
    order = {"cmd": "python3", "args": ["/workspace/m.py"], "timeout": 80_000}
    answer = await worker.run(ID, order, verb="run-async", exec_id="writes-memory")
    assert answer["running"], answer
    await writes_on(worker, epoch=1)


async def writes_on(worker: WorkerProcess, *, epoch: int) -> None:
    """Return when all of the memory has been written again."""
    rounds = "n() { cat /tmp/number 2>/dev/null || echo 0; }; first=$(n); "
    await said(worker, ID, f"{rounds} until [ $(n) -gt $((first + 1)) ]; do sleep 0.1; done", epoch=epoch)


async def is_right(worker: WorkerProcess, *, epoch: int) -> None:
    """End the writer, which looks at each of its pages."""
    await said(worker, ID, "touch /tmp/stop", epoch=epoch)
    path, headers = f"/sandboxes/{ID}/exec/writes-memory/result", {"X-Sandfleet-Epoch": str(epoch)}
    async with asyncio.timeout(120):
        while (answer := await worker.asked("GET", path, headers=headers)).get("running"):
            await asyncio.sleep(0.1)
    assert answer.get("exitCode") == 0, answer


@pytest.mark.timeout(300)
async def test_it_stays_and_nothing_is_left_where_it_was_to_go(template_dir: Path, image: ImageFiles) -> None:
    async with some_workers(template_dir, image) as (source, target):
        await begin_writing(source)
        move = Move(source, target, ID, 1, limits=TOO_SLOW)
        move.answers["described"] = await move.described()
        move.answers["received"] = await move.received()
        state = await move.sent()
        assert (state["step"], state["way"]) == ("failed", "precopy"), state
        assert "its memory may not follow it" in state["said"]
        await writes_on(source, epoch=1)
        assert (await move.abandoned())["existed"]
        assert await target.vms() == []
        await is_right(source, epoch=1)
        assert (await stopped(source, ID, epoch=1))["existed"]


@pytest.mark.timeout(300)
async def test_its_memory_follows_it_where_that_is_allowed(template_dir: Path, image: ImageFiles) -> None:
    async with some_workers(template_dir, image) as (source, target):
        await begin_writing(source)
        move = Move(source, target, ID, 1, limits={**TOO_SLOW, "may_post_copy": True})
        move.answers["described"] = await move.described()
        landing = move.answers["received"] = await move.received()
        if not landing["may_post_copy"]:
            pytest.skip("QEMU cannot ask for missing pages on this host")
        await move.make()
        await writes_on(target, epoch=2)
        await is_right(target, epoch=2)
        assert (await stopped(target, ID, epoch=2))["existed"]
