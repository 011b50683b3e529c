"""A worker process that is to be killed: starts one machine, an exec in it, says so, and waits."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import structlog
from tests.vm.conftest import ORDER, make_hypervisor

from sandfleet.adapters.qemu.config import ImageFiles
from sandfleet.ports.guest import ExecOrder

LINES = 3000
EXEC_ID = "ex-counting"
SCRIPT = f"""
i=0
while [ $i -lt {LINES} ]; do i=$((i+1)); echo "line $i"; [ $((i % 100)) -ne 0 ] || sleep 0.05; done
exit 7
"""


async def main(data_dir: Path, template_dir: Path, image: ImageFiles) -> None:
    """Leave behind an owned machine whose exec runs and is being read, and one that is half made."""
    engine, _network = make_hypervisor(data_dir, template_dir, image)
    await engine.prepare()
    machine = await engine.clone(ORDER)
    await machine.assign("sb-survivor", epoch=3)
    await machine.guest.start_exec(ExecOrder(EXEC_ID, ["/bin/sh", "-c", SCRIPT], user="root"))
    sys.stdout.write(f"pid {machine.facts.pid}\n")
    async for piece in machine.guest.read_output(EXEC_ID):
        sys.stdout.write(f"read {piece.offset + len(piece.data)}\n")
        sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    # What the engine logs must not stand between the lines that the test reads.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    words = sys.argv[1:]
    files = ImageFiles(words[2], words[3], *(Path(word) for word in words[4:8]))
    asyncio.run(main(Path(words[0]), Path(words[1]), files))
