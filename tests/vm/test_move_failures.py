"""Whatever dies during a move, one copy of the sandbox runs, its data right, and nothing is left over.

Each case halts the engine of one side at a named point, breaks something, lets it on, and then does what the
control plane does: commit if the source has handed over and the target has it, else call back.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from tests.vm.halting_worker import HALT_AT, HALTED
from tests.vm.moving import ID, SIZES, Move, begin_load, goes_on, said, some_workers, stopped
from tests.vm.worker_process import WorkerProcess

from sandfleet.adapters.processes import run_program
from sandfleet.adapters.qemu.config import ImageFiles
from sandfleet.adapters.qemu.manifest import read_manifest

COMMAND = ("tests.vm.halting_worker",)
CUT = "sandfleet_test_cut"
ASKED_MAX = 60

SOURCE_POINTS = ("send.mirroring", "send.in_step", "send.copying", "send.paused", "send.drained")
FEW = [
    ("send.drained", "target qemu"),
    ("send.handed_over", "source worker"),
]
ALL = [
    *((point, what) for point in SOURCE_POINTS for what in ("source worker", "target worker", "target qemu")),
    *((point, "network") for point in SOURCE_POINTS),
    *(("send.handed_over", what) for what in ("source worker", "target worker", "source qemu")),
    ("land.listening", "target worker"),
    ("land.running", "target worker"),
]


class Halted:
    """A worker that is told to halt at a point."""

    def __init__(self, worker: WorkerProcess, point: str) -> None:
        self.directory = worker.settings.parent
        self.point = point

    async def __aenter__(self) -> Halted:
        (self.directory / HALT_AT).write_text(self.point)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.let_on()

    async def reached(self) -> None:
        async with asyncio.timeout(120):
            while not (self.directory / HALTED).exists():
                await asyncio.sleep(0.02)

    def let_on(self) -> None:
        (self.directory / HALT_AT).unlink(missing_ok=True)
        (self.directory / HALTED).unlink(missing_ok=True)


async def end_qemu(worker: WorkerProcess) -> None:
    """Kill the one QEMU of this worker."""
    (directory,) = (worker.settings.parent / "machines").iterdir()
    process = read_manifest(directory).process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)


@asynccontextmanager
async def cut(landing: Any) -> AsyncIterator[None]:
    """Lose every packet between both hosts, without a word."""
    ports = f"{{ {landing['memory_port']}, {landing['disk_port']} }}"
    rules = (
        f"table inet {CUT} {{\nchain out {{\ntype filter hook output priority 0;\n"
        f"tcp dport {ports} drop\ntcp sport {ports} drop\n}}\n}}\n"
    )
    await run_program(["nft", "-f", "-"], given=rules)
    try:
        yield
    finally:
        await run_program(["nft", "delete", "table", "inet", CUT])


async def break_it(what: str, move: Move) -> None:
    if what == "source worker":
        await move.source.end(by_kill=True)
    elif what == "target worker":
        await move.target.end(by_kill=True)
    elif what == "target qemu":
        await end_qemu(move.target)
    elif what == "source qemu":
        await end_qemu(move.source)


async def asked(step: Any) -> Any:
    """Ask until somebody answers, as an operation that is taken up again does."""
    for _ in range(ASKED_MAX):
        try:
            return await step()
        except (aiohttp.ClientError, msgspec.DecodeError):
            await asyncio.sleep(0.2)
    raise AssertionError("nobody answers")


async def concluded(move: Move) -> WorkerProcess:
    """Decide as the control plane does; return who runs the sandbox."""
    state: Any = {}
    for _ in range(ASKED_MAX):
        state = await asked(lambda: move.sent(wait_s=10))
        if state.get("step") not in ("disks", "memory", "switching", "undecided"):
            break
        await asyncio.sleep(0.2)
    is_ready = state.get("step") == "ready" or move.answers.get("source is dead")
    landed = await asked(move.landed) if is_ready else {}
    if is_ready and landed.get("step") in ("landed", "at-home"):
        committed = await asked(move.committed)
        assert committed["state"] == "running", committed
        if not move.answers.get("source is dead"):
            released = await asked(move.released)
            assert released["existed"] in (True, False), released
        return move.target
    abandoned = await asked(move.abandoned)
    assert abandoned["move_id"] == move.move_id, abandoned
    if state.get("step") in ("ready", "undecided"):
        await asked(move.stayed)
    return move.source


async def live_again(worker: WorkerProcess) -> None:
    if worker.process.returncode is not None:
        await worker.begin_again()


async def broken_move(move: Move, point: str, what: str) -> WorkerProcess:
    """Make the move, with something broken at a point of it; return who runs the sandbox after all."""
    side = move.source if point.startswith("send.") else move.target
    move.limits = {"silent_s_max": 2.0}
    move.answers["described"] = await move.described()
    async with Halted(side, point) as halted, asyncio.TaskGroup() as group:
        going = group.create_task(_through(move))
        await halted.reached()
        if what == "network":
            async with cut(move.answers["received"]):
                halted.let_on()
                await going
        else:
            await break_it(what, move)
            halted.let_on()
            await going
    if what == "source qemu":
        move.answers["source is dead"] = True
    await live_again(move.source)
    await live_again(move.target)
    if "received" not in move.answers:
        abandoned = await asked(move.abandoned)
        assert abandoned["move_id"] == move.move_id
        return move.source
    return await concluded(move)


async def _through(move: Move) -> None:
    """Go on step by step until one is refused or nobody answers; what then holds is asked later."""
    for step in ("received", "sent", "landed", "committed"):
        try:
            answer = await getattr(move, step)()
        except aiohttp.ClientError:
            return
        while step == "sent" and answer.get("step") in ("disks", "memory", "switching"):
            answer = await move.sent()
        if "code" in answer or (step == "sent" and answer["step"] != "ready"):
            return
        move.answers[step] = answer


async def run_cases(templates: Path, image: ImageFiles, cases: list[tuple[str, str]]) -> None:
    async with some_workers(templates, image, command=COMMAND) as workers:
        await begin_load(workers[0])
        here, there, epoch = workers[0], workers[1], 1
        for point, what in cases:
            move = Move(here, there, ID, epoch)
            runs = await broken_move(move, point, what)
            print(f"{what} at {point}: {'moved' if runs is move.target else 'stayed'}")
            if runs is move.target:
                here, there, epoch = there, here, epoch + 1
                if what == "source qemu":  # its host reports it dead until it is told to remove what is left
                    await stopped(there, ID, epoch=epoch - 1)
            assert [(vm["state"], vm["epoch"]) for vm in await here.vms()] == [("running", epoch)], (
                point,
                what,
            )
            assert await there.vms() == [], (point, what)
            await goes_on(here, epoch=epoch)
        assert (await stopped(here, ID, epoch=epoch))["existed"]


@pytest.mark.timeout(900)
async def test_what_dies_during_a_move_leaves_one_copy(template_dir: Path, image: ImageFiles) -> None:
    await run_cases(template_dir, image, FEW)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
async def test_what_dies_at_any_point_of_a_move_leaves_one_copy(
    template_dir: Path, image: ImageFiles
) -> None:
    await run_cases(template_dir, image, ALL)


@pytest.mark.timeout(300)
async def test_a_target_that_takes_the_call_and_never_answers_keeps_nobody_standing(
    template_dir: Path, image: ImageFiles
) -> None:
    """Until it has heard the target QEMU answers nobody: the connection is cut from outside."""
    async with some_workers(template_dir, image) as (source, target):
        started = await source.start(
            ID, **{**SIZES, "memory_mib": 1024}
        )  # plugged: it stands still for its copy
        assert started.get("state") == "running", started
        move = Move(source, target, ID, 1, limits={"silent_s_max": 2.0})
        move.answers["described"] = await move.described()
        landing = move.answers["received"] = await move.received()
        with socket.create_server((landing["host"], 0)) as silent:
            landing["memory_port"] = silent.getsockname()[1]
            state = await move.sent()
        assert (state["step"], state["way"]) == ("failed", "standing"), state
        assert state["said"]
        assert await said(source, ID, "echo on", epoch=1) == "on\n"
        assert (await move.abandoned())["existed"]
        assert (await stopped(source, ID, epoch=1))["existed"]
