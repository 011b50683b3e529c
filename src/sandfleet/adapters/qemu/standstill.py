"""The one scope in which a guest stands still: entered only when it answers, left with it running again.

Every way out resumes the guest, whatever failed inside, unless its end was decided: then the
snapshot that was published is the sandbox, and the guest must never run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from sandfleet.adapters.awake import awake_timeout
from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.adapters.qemu.qmp import Qmp, QmpRefused
from sandfleet.model.errors import HypervisorFailed

QUIESCE_TIMEOUT_S = 60.0
_THAW_TRIES = 100
_THAW_PAUSE_S = 0.05


@dataclass(slots=True)
class Standstill:
    """How long the guest has stood still; `is_final` when it shall not run again.

    `steps_ms` says by when, in milliseconds since then, each step of the save had been done.
    """

    now_s: Callable[[], float]
    began_s: float
    is_final: bool = False
    took_s: float = 0.0
    steps_ms: dict[str, float] = field(default_factory=dict)

    def done(self, step: str) -> None:
        """Note that a step of the save has been done; any thread may."""
        self.steps_ms[step] = round((self.now_s() - self.began_s) * 1000, 1)

    def measure(self) -> None:
        """Note that the guest's pause ends here."""
        self.took_s = self.now_s() - self.began_s


@asynccontextmanager
async def standing_still(machine: QemuMachine) -> AsyncIterator[Standstill]:
    """Have the guest write out what it holds, stop it, and run it again on the way out."""
    async with awake_timeout(QUIESCE_TIMEOUT_S):
        await machine.guest.quiesce()
    qmp = machine.monitor
    now_s = asyncio.get_running_loop().time
    pause = Standstill(now_s, now_s())
    try:
        machine.room.is_held = True
        await qmp.execute("stop")
        status = (await qmp.execute("query-status"))["status"]
        if status != "paused":  # a write found the host's disk full and had stopped it first
            raise HypervisorFailed(f"the guest cannot be saved now: it is {status}")
        yield pause
    except BaseException:
        if not pause.is_final:
            await give_up(qmp)
        raise
    finally:
        machine.room.is_held = False
        if not pause.is_final:
            await thaw(qmp)
            pause.measure()


async def give_up(qmp: Qmp) -> None:
    """Have QEMU stop writing, if it still does: a guest that runs again must not be written out beside it."""
    with suppress(HypervisorFailed):
        await qmp.execute("migrate_cancel")


async def thaw(qmp: Qmp) -> None:
    """Have the guest run, whatever a save has left: QEMU refuses while it still puts one away."""
    refusal = "it does not say why"
    for _ in range(_THAW_TRIES):
        try:
            await qmp.execute("cont")
            if (await qmp.execute("query-status"))["status"] == "running":
                return
        except QmpRefused as error:
            refusal = error.message
        await asyncio.sleep(_THAW_PAUSE_S)
    raise HypervisorFailed(f"the guest cannot be resumed: {refusal}")
