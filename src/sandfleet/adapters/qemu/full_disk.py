"""A guest whose write finds the host's disk full stands still until there is room, and then goes on.

Told of the error instead, its file system would give itself up and stay read-only for good: the
host's trouble would become the sandbox's loss. QEMU stops the guest at such a write and keeps it;
resumed, it writes again. Every other I/O error is the guest's to see.
"""

from __future__ import annotations

import asyncio

import structlog
from qemu.qmp import QMPError

from sandfleet.adapters.qemu.qmp import Qmp
from sandfleet.model.errors import HypervisorFailed

PAUSE_S = 1.0
_STOPPED = "io-error"

log = structlog.get_logger("sandfleet.engine")


class RoomForWrites:
    """Looks after one machine. `is_held`: a save has stopped the guest, and it is that save's to resume."""

    def __init__(self) -> None:
        self.is_held = False

    async def keep_going(self, qmp: Qmp, *, machine_id: str) -> None:
        """Resume the guest whenever a full disk has stopped it; returns when QEMU has ended."""
        try:
            with qmp.listen("BLOCK_IO_ERROR") as errors:
                await self._until_running(qmp, machine_id=machine_id)  # it may have stopped before we came
                while True:
                    event = await errors.get()
                    errors.clear()  # one stop, however many writes it has met
                    log.warning("disk_error", machine=machine_id, data=event.get("data"))
                    await self._until_running(qmp, machine_id=machine_id)
        except (HypervisorFailed, QMPError):
            return

    async def _until_running(self, qmp: Qmp, *, machine_id: str) -> None:
        """Try again and again; what bounds it is the machine's life."""
        tries = 0
        while (await qmp.execute("query-status"))["status"] == _STOPPED:
            if not self.is_held:
                await qmp.execute("cont")
                tries += 1
            await asyncio.sleep(PAUSE_S)
        if tries:
            log.warning("guest_goes_on", machine=machine_id, tries=tries)
