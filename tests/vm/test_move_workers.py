"""Two real worker processes: a sandbox goes back and forth between them, and nobody in it notices."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.vm.moving import ID, Move, begin_load, goes_on, stopped, two_workers

from sandfleet.adapters.qemu.config import ImageFiles

MOVES = int(os.environ.get("SANDFLEET_MOVES", "2"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("memory_mib", [pytest.param(512, marks=pytest.mark.chaos), 1024])
async def test_a_sandbox_goes_back_and_forth_while_it_writes_and_counts(
    template_dir: Path, image: ImageFiles, memory_mib: int
) -> None:
    async with two_workers(template_dir, image) as workers:
        await begin_load(workers[0], memory_mib=memory_mib)
        for number in range(MOVES):
            source, target = workers[number % 2], workers[(number + 1) % 2]
            move = Move(source, target, ID, epoch=number + 1)
            await move.make()
            print(
                number,
                move.answers["sent"]["way"],
                {step: round(at - move.times["described"], 3) for step, at in move.times.items()},
            )
            await goes_on(target, epoch=number + 2)
        assert (await stopped(workers[MOVES % 2], ID, epoch=MOVES + 1))["existed"]
