"""Two real worker processes: a sandbox goes back and forth between them, and nobody in it notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.vm.conftest import make_hypervisor, short_directory
from tests.vm.moving import SIZES, Move, said, stopped
from tests.vm.test_snapshots import CHECKER, WRITER
from tests.vm.worker_process import WorkerProcess, a_worker_process

from sandfleet.adapters.qemu.config import ImageFiles

ID = "sb-one"
MOVES = 3


@asynccontextmanager
async def two_workers(templates_dir: Path, image: ImageFiles) -> AsyncIterator[list[WorkerProcess]]:
    """Two workers on one machine; whatever they leave on it fails the test."""
    with short_directory() as first, short_directory() as second:
        async with (
            a_worker_process(first, templates_dir, worker_id="wk-first") as one,
            a_worker_process(second, templates_dir, worker_id="wk-second") as two,
        ):
            yield [one, two]
        for directory in (first, second):
            engine, network = make_hypervisor(directory, templates_dir, image)
            left = list(await engine.adopt())
            for machine in left:
                await machine.destroy()
            assert (left, await engine.sweep()) == ([], [])
            await network.withdraw()


LOAD = f"mkdir -p /workspace/load; cat > /workspace/w.py <<'E'\n{WRITER}\nE\ncat > /workspace/c.py <<'E'\n{CHECKER}\nE"
CHECK = (
    "sync; echo 3 | sudo tee /proc/sys/vm/drop_caches >/dev/null; python3 /workspace/c.py; ls /etc | wc -l"
)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("memory_mib", [512, 1024])
async def test_a_sandbox_goes_back_and_forth_while_it_writes_and_counts(
    template_dir: Path, image: ImageFiles, memory_mib: int
) -> None:
    async with two_workers(template_dir, image) as workers:
        await workers[0].start(ID, **{**SIZES, "memory_mib": memory_mib})
        await said(workers[0], ID, LOAD, epoch=1)
        count = {"cmd": "python3", "args": ["/workspace/w.py"], "timeout": 0}
        await workers[0].run(ID, count, verb="run-async", exec_id="counting")
        for number in range(MOVES):
            source, target = workers[number % 2], workers[(number + 1) % 2]
            move = Move(source, target, ID, epoch=number + 1)
            await move.make()
            print(
                number,
                move.answers["sent"]["way"],
                {step: round(at - move.times["described"], 3) for step, at in move.times.items()},
            )
            await said(target, ID, CHECK, epoch=number + 2)
        await asyncio.sleep(0)
        assert (await stopped(workers[MOVES % 2], ID, epoch=MOVES + 1))["existed"]
