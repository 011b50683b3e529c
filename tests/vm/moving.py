"""One live migration between two workers, step by step, as the control plane orders it."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.vm.conftest import make_hypervisor, short_directory
from tests.vm.test_snapshots import CHECKER, WRITER
from tests.vm.worker_process import COMMAND, WorkerProcess, a_worker_process

from sandfleet.adapters.qemu.config import ImageFiles
from sandfleet.wire.worker_messages import StopVm

ID = "sb-one"
COUNTING = "counting"
LOAD = (
    f"mkdir -p /workspace/load; cat > /workspace/w.py <<'E'\n{WRITER}\nE\n"
    f"cat > /workspace/c.py <<'E'\n{CHECKER}\nE"
)
CHECK = (
    "sync; echo 3 | sudo tee /proc/sys/vm/drop_caches >/dev/null; python3 /workspace/c.py; ls /etc | wc -l"
)
SIZES = {"memory_mib": 512, "disk_mib": 20480, "cpu_count": 1}
LOG_SHOWN_MAX = 8000
STEPS = ("described", "received", "sent", "landed", "committed", "released")


@asynccontextmanager
async def some_workers(
    templates_dir: Path, image: ImageFiles, *, count: int = 2, command: Sequence[str] = COMMAND
) -> AsyncIterator[list[WorkerProcess]]:
    """Workers on one machine; whatever they leave on it fails the test."""
    with ExitStack() as places:
        directories = [places.enter_context(short_directory()) for _ in range(count)]
        async with AsyncExitStack() as running:
            workers = [
                await running.enter_async_context(
                    a_worker_process(directory, templates_dir, worker_id=f"wk-{number}", command=command)
                )
                for number, directory in enumerate(directories, 1)
            ]
            try:
                yield workers
            except BaseException:
                for worker in workers:  # what pytest shows of a failure that it did not see itself
                    sys.stdout.write(worker.log.read_text()[-LOG_SHOWN_MAX:])
                raise
        for directory in directories:
            engine, network = make_hypervisor(directory, templates_dir, image)
            left = list(await engine.adopt())
            for machine in left:
                await machine.destroy()
            assert (left, await engine.sweep()) == ([], [])
            await network.withdraw()


@dataclass
class Move:
    """A move of `sandbox_id`, which is at `source` under `epoch`."""

    source: WorkerProcess
    target: WorkerProcess
    sandbox_id: str
    epoch: int
    limits: dict[str, Any] = field(default_factory=dict)
    move_id: str = field(default_factory=lambda: f"mv-{secrets.token_hex(4)}")
    answers: dict[str, Any] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)

    async def make(self, *, after: Callable[[str], Awaitable[None]] | None = None) -> None:
        """Do all steps; `after` is awaited after each, by its name."""
        for step in STEPS:
            self.answers[step] = await getattr(self, step)()
            self.times[step] = asyncio.get_running_loop().time()
            if "code" in self.answers[step]:
                raise AssertionError(f"{step}: {self.answers[step]}")
            if after is not None:
                await after(step)

    async def described(self) -> Any:
        return await self.source.order("POST", f"{self._vm}/describe", {"epoch": self.epoch})

    async def received(self) -> Any:
        order = {
            "sandbox_id": self.sandbox_id,
            "source_worker": "wk-other",
            "epoch": self.epoch + 1,
            "manifest": self.answers["described"],
            "may_post_copy": self.limits.get("may_post_copy", False),
        }
        return await self.target.order("PUT", self._one, order)

    async def sent(self, *, wait_s: float = 60) -> Any:
        order = {
            "epoch": self.epoch,
            "move_id": self.move_id,
            "target_worker": "wk-other",
            "landing": self.answers["received"],
            "limits": self.limits,
            "wait_s": wait_s,
        }
        return await self.source.order("PUT", f"{self._vm}/move", order)

    async def landed(self) -> Any:
        return await self.target.order("POST", f"{self._one}/landed", {})

    async def committed(self) -> Any:
        order = {"sandbox_id": self.sandbox_id, "epoch": self.epoch + 1}
        return await self.target.order("POST", f"{self._one}/commit", order)

    async def released(self) -> Any:
        return await self.source.order("POST", f"{self._vm}/move/release", self._end)

    async def stayed(self) -> Any:
        return await self.source.order("POST", f"{self._vm}/move/stay", self._end)

    async def abandoned(self) -> Any:
        return await self.target.order("DELETE", self._one, {})

    @property
    def _vm(self) -> str:
        return f"/vms/{self.sandbox_id}"

    @property
    def _one(self) -> str:
        return f"/moves/{self.move_id}"

    @property
    def _end(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "move_id": self.move_id}


async def stopped(worker: WorkerProcess, sandbox_id: str, *, epoch: int) -> Any:
    """Have nothing of the sandbox left at this worker."""
    return await worker.order("DELETE", f"/vms/{sandbox_id}", StopVm(epoch=epoch))


async def said(worker: WorkerProcess, sandbox_id: str, script: str, *, epoch: int) -> str:
    """Run a script in the sandbox; return its output."""
    body = await worker.run(sandbox_id, {"cmd": "sh", "args": ["-c", script], "timeout": 600}, epoch=epoch)
    assert body.get("exitCode") == 0, body
    return str(body["stdout"])


async def begin_load(worker: WorkerProcess, *, memory_mib: int = 512) -> None:
    """Start the sandbox and have it write files and memory, all checked, and count, for ever."""
    started = await worker.start(ID, **{**SIZES, "memory_mib": memory_mib})
    assert started.get("state") == "running", started
    await said(worker, ID, LOAD, epoch=1)
    order = {"cmd": "python3", "args": ["/workspace/w.py"], "timeout": 80_000}
    answer = await worker.run(ID, order, verb="run-async", exec_id=COUNTING)
    assert answer["running"], answer


async def counted(worker: WorkerProcess, *, epoch: int) -> int:
    """Return how far the load has counted; every number must be there, each once, in order."""
    headers = {"X-Sandfleet-Epoch": str(epoch)}
    path = f"/sandboxes/{ID}/exec/{COUNTING}/result"
    answer = await worker.asked("GET", path, headers=headers)
    assert answer.get("running"), answer
    numbers = [int(line) for line in answer["stdout"].split("\n")[:-1]]
    assert numbers == list(range(1, len(numbers) + 1)), answer["stdout"][-200:]
    return len(numbers)


async def goes_on(worker: WorkerProcess, *, epoch: int) -> None:
    """Check the disk without caches, the memory, and that the count goes on without a gap."""
    await said(worker, ID, CHECK, epoch=epoch)
    before = await counted(worker, epoch=epoch)
    async with asyncio.timeout(120):
        while await counted(worker, epoch=epoch) == before:
            await asyncio.sleep(0.05)


async def is_whole_after_reboot(worker: WorkerProcess, *, epoch: int) -> None:
    """End the load, boot the sandbox anew, and check what it had written."""
    # The brackets keep the pattern from finding itself.
    await said(worker, ID, "pkill -f '/workspace/[w].py'; sync", epoch=epoch)
    answer = await worker.order("POST", f"/vms/{ID}/reboot", {"epoch": epoch, "restart_id": "after-all"})
    assert answer.get("state") == "running", answer
    await said(worker, ID, CHECK, epoch=epoch)


def moved_here(worker: WorkerProcess) -> list[dict[str, Any]]:
    """Return what the worker's log says of each sandbox that it took over."""
    lines = [line for line in worker.log.read_text().splitlines() if '"vm_moved_here"' in line]
    return [json.loads(line[line.index("{") :]) for line in lines]
