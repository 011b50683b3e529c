"""The target's end of a move: is the machine there, and running it when the move counts."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec

from sandfleet.adapters.qemu import memory, move_keys
from sandfleet.adapters.qemu.guest_session import guest_session
from sandfleet.adapters.qemu.host import Host, limits
from sandfleet.adapters.qemu.launch import log_tail
from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.adapters.qemu.manifest import ARRIVING, READY, write_manifest
from sandfleet.adapters.qemu.qmp import QmpRefused
from sandfleet.adapters.qemu.standstill import thaw
from sandfleet.model.errors import HypervisorFailed
from sandfleet.wire.qemu_command import DATA_DRIVE, ROOT_DRIVE

LANDED = frozenset({"completed", "postcopy-active"})
LOST = frozenset({"failed", "cancelled", "postcopy-paused"})
LAND_ROUNDS_MAX = 2000
POLL_S = 0.005


async def landed(machine: QemuMachine) -> None:
    """Return when the machine could run here: it has all of its devices, and its memory or the way to it."""
    qmp = machine.monitor
    said = ""
    for _ in range(LAND_ROUNDS_MAX):
        said = str((await qmp.execute("query-migrate")).get("status", "none"))
        if said in LANDED and (await qmp.execute("query-status"))["status"] in ("paused", "running"):
            return
        if said in LOST:
            break
        await asyncio.sleep(POLL_S)
    tail = log_tail(machine.host.directory(machine.manifest.machine_id))
    raise HypervisorFailed(f"the machine has not arrived ({said}) {tail}".strip())


async def take_over(host: Host, machine: QemuMachine) -> None:
    """Run the machine, open a session with its agent, and write down that it is at home here."""
    qmp = machine.monitor
    directory = host.directory(machine.manifest.machine_id)
    await landed(machine)
    for drive in (ROOT_DRIVE, DATA_DRIVE):
        with suppress(QmpRefused):  # it was withdrawn before
            await qmp.execute("block-export-del", {"id": drive, "mode": "hard"})
    with suppress(QmpRefused):
        await qmp.execute("nbd-server-stop")
    await thaw(qmp)
    await host.faults.at("land.running")
    if machine.sessions is not None and machine.sessions.guest is None:
        machine.sessions.guest = await guest_session(host, machine.manifest.machine_id)
    if machine.manifest.state == ARRIVING:
        memory_mib = await memory.current(qmp, machine.manifest.shape)
        at_home = msgspec.structs.replace(
            machine.manifest,
            state=READY,
            memory_mib=memory_mib,
            move_id="",
            landing_host="",
            landing_ports=[],
        )
        # It may have grown since its place was made.
        host.cgroups.set_limits(
            at_home.machine_id,
            limits(memory_mib=memory_mib, cpu_count=at_home.cpu_count, cpu_percent=at_home.cpu_percent),
        )
        await asyncio.to_thread(write_manifest, directory, at_home, durable=True)
        machine.manifest = at_home
    await move_keys.remove_credentials(qmp, directory)
