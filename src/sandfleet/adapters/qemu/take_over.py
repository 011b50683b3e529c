"""The target's end of a move: is the machine there, and running it when the move counts.

The guest stands still until it is told to run, and nobody reaches it before it has been told who it is. So
only what must be comes before these, and what is written down and put away is so beside them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from sandfleet.adapters.qemu import memory, move_keys
from sandfleet.adapters.qemu.guest_session import guest_session
from sandfleet.adapters.qemu.host import Host, limits
from sandfleet.adapters.qemu.launch import log_tail
from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.adapters.qemu.manifest import ARRIVING, READY, write_manifest
from sandfleet.adapters.qemu.qmp import QmpRefused
from sandfleet.adapters.qemu.standstill import thaw
from sandfleet.adapters.together import both
from sandfleet.model.errors import HypervisorFailed, SandfleetError
from sandfleet.ports.moves import Tell

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


@dataclass(slots=True)
class _Steps:
    """By when, in milliseconds since the beginning, each step had been done."""

    now_s: Callable[[], float]
    began_s: float
    ms: dict[str, float] = field(default_factory=dict)

    def done(self, step: str) -> None:
        self.ms[step] = round((self.now_s() - self.began_s) * 1000, 1)


async def take_over(host: Host, machine: QemuMachine, *, tell: Tell) -> dict[str, float]:
    """Run the machine, have its agent told, and write down that it is at home here; return its steps."""
    qmp = machine.monitor
    now_s = asyncio.get_running_loop().time
    steps = _Steps(now_s, now_s())
    await landed(machine)
    steps.done("landed")
    with suppress(QmpRefused):  # they were withdrawn before
        await qmp.execute("nbd-server-stop")  # ends every export with it, whoever still writes to one
    steps.done("withdrawn")
    await thaw(qmp)
    steps.done("running")
    await host.faults.at("land.running")
    refusal = await both(_greet(host, machine, tell, steps), _settle(host, machine, steps))
    if refusal is not None:
        raise refusal
    return steps.ms


async def _greet(host: Host, machine: QemuMachine, tell: Tell, steps: _Steps) -> SandfleetError | None:
    """Return what keeps the guest from being told: it does not end what is written down beside it."""
    try:
        if machine.sessions is not None and machine.sessions.guest is None:
            machine.sessions.guest = await guest_session(host, machine.manifest.machine_id)
        steps.done("greeted")
        await tell(machine.guest)
    except SandfleetError as error:
        return error
    steps.done("told")
    return None


async def _settle(host: Host, machine: QemuMachine, steps: _Steps) -> None:
    """Write down that it is at home here, and put away what was needed to come."""
    qmp, directory = machine.monitor, host.directory(machine.manifest.machine_id)
    if machine.manifest.state == ARRIVING:
        await _write_home(host, machine, directory)
    steps.done("written")
    await move_keys.remove_credentials(qmp, directory)
    steps.done("put_away")


async def _write_home(host: Host, machine: QemuMachine, directory: Path) -> None:
    memory_mib = await memory.current(machine.monitor, machine.manifest.shape)
    at_home = msgspec.structs.replace(
        machine.manifest,
        state=READY,
        memory_mib=memory_mib,
        move_id="",
        landing_host="",
        landing_ports=[],
        landing_channels=0,
    )
    # It may have grown since its place was made.
    host.cgroups.set_limits(
        at_home.machine_id,
        limits(memory_mib=memory_mib, cpu_count=at_home.cpu_count, cpu_percent=at_home.cpu_percent),
    )
    await asyncio.to_thread(write_manifest, directory, at_home, durable=True)
    machine.manifest = at_home
