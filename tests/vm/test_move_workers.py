"""Real worker processes: a sandbox goes from one to another, and nobody in it notices."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from bench import bare_moves
from bench.bare_clones import BareClones
from bench.samples import Samples
from tests.vm.conftest import ORDER, run
from tests.vm.moving import (
    ID,
    LOAD,
    Move,
    begin_load,
    goes_on,
    is_whole_after_reboot,
    moved_here,
    some_workers,
    stopped,
)
from tests.vm.worker_process import WorkerProcess

from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.qemu.config import ImageFiles
from sandfleet.adapters.qemu.hypervisor import QemuHypervisor

MOVES = int(os.environ.get("SANDFLEET_MOVES", "2"))
MANY_MOVES = 20
SEED = int(os.environ.get("SANDFLEET_MOVES_SEED", "5"))
ORDERED_STEPS = ("landed", "withdrawn", "running", "greeted", "told")


async def go(source: WorkerProcess, target: WorkerProcess, *, epoch: int) -> float:
    """Move the sandbox, which is at `source` under `epoch`, and look whether all of it goes on.

    Return for how many milliseconds nobody could reach it.
    """
    move = Move(source, target, ID, epoch)
    arrived_at_s = 0.0

    async def note(step: str) -> None:
        nonlocal arrived_at_s
        if step == "committed":
            arrived_at_s = SystemClock().now().timestamp()

    await move.make(after=note)
    steps = moved_here(target)[-1]["steps_ms"]
    assert [steps[name] for name in ORDERED_STEPS] == sorted(steps[name] for name in ORDERED_STEPS)
    assert {"written", "put_away"} <= set(steps)
    times = {step: round(at - move.times["described"], 3) for step, at in move.times.items()}
    print(epoch, move.answers["sent"]["way"], times, steps)
    await goes_on(target, epoch=epoch + 1)
    return 1000 * (arrived_at_s - float(move.answers["sent"]["stood_still_at_s"]))


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
async def test_it_goes_back_and_forth_beside_two_bare_qemus_whose_guest_does_the_same(
    template_dir: Path, image: ImageFiles, hypervisor: QemuHypervisor
) -> None:
    """What is timed is only shown: see `bench/rows/migrate.py`."""
    template = await hypervisor._template_for(ORDER)
    clones = BareClones(hypervisor, hypervisor._host, template, ORDER)
    moved, floor = Samples(), Samples()
    bare = await clones.clone()
    try:
        async with some_workers(template_dir, image) as workers:
            await begin_load(workers[0])
            begun = (
                f"mkdir -p /workspace; {LOAD}; setsid python3 /workspace/w.py </dev/null >/dev/null 2>&1 &"
            )
            assert await run(bare.guest, begun) == (0, "")
            for number in range(MANY_MOVES):
                here, there = workers[number % 2], workers[(number + 1) % 2]
                moved.values.append(await go(here, there, epoch=number + 1))
                bare = await bare_moves.move(clones, bare, is_still=False, is_sealed=True, stood_still=floor)
            home = workers[MANY_MOVES % 2]
            await is_whole_after_reboot(home, epoch=MANY_MOVES + 1)
            assert (await stopped(home, ID, epoch=MANY_MOVES + 1))["existed"]
    finally:
        await bare.destroy()
    for name, samples in (("the product", moved), ("two bare QEMUs, encrypted alike", floor)):
        print(f"{name}: p50 {samples.median:.0f} ms, p99 {samples.p99:.0f} ms of {MANY_MOVES}")


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
