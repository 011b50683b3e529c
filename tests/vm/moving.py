"""One live migration between two workers, step by step, as the control plane orders it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.vm.worker_process import WorkerProcess

from sandfleet.wire.worker_messages import StopVm

SIZES = {"memory_mib": 512, "disk_mib": 20480, "cpu_count": 1}
STEPS = ("described", "received", "sent", "landed", "committed", "released")


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
    body = await worker.run(sandbox_id, {"cmd": "sh", "args": ["-c", script]}, epoch=epoch)
    assert body.get("exitCode") == 0, body
    return str(body["stdout"])
