"""A worker that stops at a named point of its engine until let on: `halt-at` names it, `halted` says so.

Both are files in its data directory. The point is passed once; a worker that is killed there has died there.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop

from sandfleet.worker.engine import engine, host_claim
from sandfleet.worker.main import serve
from sandfleet.worker.settings import WorkerSettings, load_settings

HALT_AT, HALTED = "halt-at", "halted"
POINTS = (
    "land.listening",
    "send.mirroring",
    "send.in_step",
    "send.copying",
    "send.paused",
    "send.drained",
    "send.handed_over",
    "land.running",
)
LET_ON_POLLS_MAX = 6000
POLL_S = 0.02


async def _halt(directory: Path, point: str) -> None:
    wanted = directory / HALT_AT
    if not wanted.exists() or wanted.read_text() != point:
        return
    (directory / HALTED).touch()
    for _ in range(LET_ON_POLLS_MAX):
        if not wanted.exists():
            break
        await asyncio.sleep(POLL_S)
    (directory / HALTED).unlink(missing_ok=True)


async def _run(settings: WorkerSettings) -> None:
    hypervisor = engine(settings)
    for point in POINTS:
        hypervisor.faults.actions[point] = lambda point=point: _halt(settings.data_dir, point)
    await serve(
        settings,
        hypervisor,
        snapshots=hypervisor.snapshots,
        mover=hypervisor.mover,
        stop=asyncio.Event(),
    )


if __name__ == "__main__":
    chosen = load_settings(Path(sys.argv[1]))
    with host_claim(chosen), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(chosen))
