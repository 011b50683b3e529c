"""The source's end of a move: the machine runs here again, or nothing more is needed of it.

Rule 1: what has not been handed over is called back. QEMU does not call back a machine whose memory follows
it: that must first be there whole.
Rule 2: nobody asks this of a machine whose target may run.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec

from sandfleet.adapters.qemu import mirror, move_keys
from sandfleet.adapters.qemu.guest_session import guest_session
from sandfleet.adapters.qemu.host import Host
from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.adapters.qemu.manifest import write_manifest
from sandfleet.adapters.qemu.qmp import Qmp, QmpRefused
from sandfleet.adapters.qemu.standstill import give_up, thaw
from sandfleet.model.errors import HypervisorFailed, MoveUndecided
from sandfleet.model.move import Outcome

NOT_HANDED_OVER = frozenset({"none", "setup", "active", "pre-switchover", "wait-unplug", "cancelling"})
OVER = frozenset({"completed", "failed", "cancelled"})
POLL_S = 0.02
SILENT_ROUNDS_MAX = 1500


async def migrate_status(qmp: Qmp) -> str:
    """Return how far the migration is, in QEMU's word."""
    return str((await qmp.execute("query-migrate")).get("status", "none"))


async def is_handed_over(qmp: Qmp) -> bool:
    """Whether the target may have what it needs to run."""
    return await migrate_status(qmp) not in NOT_HANDED_OVER | {"failed", "cancelled"}


async def outcome(host: Host, machine: QemuMachine) -> Outcome:
    """Return what a hand-over that nobody has watched to its end has come to."""
    qmp = machine.monitor
    if await is_handed_over(qmp):
        if await migrate_status(qmp) == "device":
            return Outcome.OPEN
        if (await qmp.execute("query-status"))["status"] != "running":
            return Outcome.HANDED_OVER
    await stay(host, machine)
    return Outcome.STAYED


async def stay(host: Host, machine: QemuMachine) -> None:
    """Have the machine run here, its agent answering. May be repeated."""
    qmp = machine.monitor
    await mirror.tear_off(qmp)
    status = await migrate_status(qmp)
    if status in NOT_HANDED_OVER:
        await give_up(qmp)
    if status in ("setup", "device"):  # it waits for the target's word, which counts no more
        with suppress(QmpRefused):
            await qmp.execute("yank", {"instances": [{"type": "migration"}]}, is_urgent=True)
    await sent(machine)
    await thaw(qmp)
    directory = host.directory(machine.manifest.machine_id)
    await move_keys.remove_credentials(qmp, directory)
    if machine.sessions is not None and machine.sessions.guest is None:
        machine.sessions.guest = await guest_session(host, machine.manifest.machine_id)
    if machine.manifest.move_id:
        at_home = msgspec.structs.replace(machine.manifest, move_id="")
        await asyncio.to_thread(write_manifest, directory, at_home, durable=True)
        machine.manifest = at_home


async def sent(machine: QemuMachine) -> None:
    """Return when the migration is over, however; raise when its memory can follow it no more."""
    qmp = machine.monitor
    moved, silent = -1, 0
    while silent < SILENT_ROUNDS_MAX:
        described = await qmp.execute("query-migrate")
        status = str(described.get("status", "none"))
        if status in OVER or status == "none":
            return
        if status == "postcopy-paused":
            raise MoveUndecided("the connection to the target broke while memory followed its guest")
        before, moved = moved, int(described.get("ram", {}).get("transferred", 0))
        silent = silent + 1 if moved == before else 0
        await asyncio.sleep(POLL_S)
    raise HypervisorFailed("the migration does not end")
