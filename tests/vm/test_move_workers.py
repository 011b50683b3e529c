"""Real worker processes: a sandbox goes from one to another, and nobody in it notices."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from tests.vm.moving import (
    ID,
    Move,
    begin_load,
    goes_on,
    is_whole_after_reboot,
    moved_here,
    some_workers,
    stopped,
)
from tests.vm.worker_process import WorkerProcess

from sandfleet.adapters.qemu.config import ImageFiles

MOVES = int(os.environ.get("SANDFLEET_MOVES", "2"))
MANY_MOVES = 20
SEED = int(os.environ.get("SANDFLEET_MOVES_SEED", "5"))
ORDERED_STEPS = ("landed", "withdrawn", "running", "greeted", "told")


async def go(source: WorkerProcess, target: WorkerProcess, *, epoch: int) -> None:
    """Move the sandbox, which is at `source` under `epoch`, and look whether all of it goes on."""
    move = Move(source, target, ID, epoch)
    await move.make()
    steps = moved_here(target)[-1]["steps_ms"]
    assert [steps[name] for name in ORDERED_STEPS] == sorted(steps[name] for name in ORDERED_STEPS)
    assert {"written", "put_away"} <= set(steps)
    times = {step: round(at - move.times["described"], 3) for step, at in move.times.items()}
    print(epoch, move.answers["sent"]["way"], times, steps)
    await goes_on(target, epoch=epoch + 1)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("memory_mib", "moves"),
    [
        (1024, MOVES),
        pytest.param(512, MANY_MOVES, marks=pytest.mark.chaos),
        pytest.param(1024, MANY_MOVES, marks=pytest.mark.chaos),
    ],
)
async def test_a_sandbox_goes_back_and_forth_while_it_writes_and_counts(
    template_dir: Path, image: ImageFiles, memory_mib: int, moves: int
) -> None:
    async with some_workers(template_dir, image) as workers:
        await begin_load(workers[0], memory_mib=memory_mib)
        for number in range(moves):
            await go(workers[number % 2], workers[(number + 1) % 2], epoch=number + 1)
        home = workers[moves % 2]
        if moves >= MANY_MOVES:
            await is_whole_after_reboot(home, epoch=moves + 1)
        assert (await stopped(home, ID, epoch=moves + 1))["existed"]


@pytest.mark.chaos
@pytest.mark.timeout(1800)
async def test_a_sandbox_goes_at_random_over_six_workers(template_dir: Path, image: ImageFiles) -> None:
    chosen = random.Random(SEED)
    async with some_workers(template_dir, image, count=6) as workers:
        home = workers[0]
        await begin_load(home)
        for epoch in range(1, MANY_MOVES + 1):
            target = chosen.choice([worker for worker in workers if worker is not home])
            await go(home, target, epoch=epoch)
            home = target
        await is_whole_after_reboot(home, epoch=MANY_MOVES + 1)
        for worker in workers:
            assert len(await worker.vms()) == (worker is home)
        assert (await stopped(home, ID, epoch=MANY_MOVES + 1))["existed"]
