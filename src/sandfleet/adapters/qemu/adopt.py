"""Taking over the machines that an earlier worker process left running."""

from __future__ import annotations

import msgspec
import structlog

from sandfleet.adapters.awake import awake_timeout
from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.qemu import memory
from sandfleet.adapters.qemu.config import QMP_SOCKET
from sandfleet.adapters.qemu.guest_session import guest_session
from sandfleet.adapters.qemu.host import Host
from sandfleet.adapters.qemu.machine import QemuMachine, Sessions
from sandfleet.adapters.qemu.manifest import READY, Manifest
from sandfleet.adapters.qemu.process import ProcessHandle
from sandfleet.adapters.qemu.qmp import Qmp
from sandfleet.adapters.qemu.standstill import give_up, thaw
from sandfleet.adapters.qemu.stay import is_handed_over, stay
from sandfleet.model.errors import GuestUnresponsive, HypervisorFailed, SandfleetError
from sandfleet.ports.guest import Guest

log = structlog.get_logger(__name__)
CLOCK_TIMEOUT_S = 5.0
PAUSED_STATES = frozenset({"paused", "postmigrate", "finish-migrate", "save-vm"})


async def adopt_machine(host: Host, manifest: Manifest) -> QemuMachine:
    """Return the machine of `manifest`, with sessions if its QEMU runs.

    Sizes are read back from QEMU. A machine whose monitor or agent does not answer is
    returned as well: that it runs is one fact, that it answers is another.
    """
    if manifest.process is None:
        return QemuMachine(host, manifest, None)
    try:
        handle = ProcessHandle(manifest.process)
    except HypervisorFailed:
        return QemuMachine(host, manifest, None)
    qmp, stood_still = await _monitor(host, manifest)
    if qmp is not None:
        manifest = await _measured(qmp, manifest)
    if handle.has_ended():
        handle.close()
        return QemuMachine(host, manifest, None)
    if manifest.move_id:
        return await _half_moved(host, QemuMachine(host, manifest, Sessions(handle, qmp, None)))
    guest = await guest_session(host, manifest.machine_id)
    if stood_still:
        await _set_clock(guest, manifest)
    return QemuMachine(host, manifest, Sessions(handle, qmp, guest))


async def _monitor(host: Host, manifest: Manifest) -> tuple[Qmp | None, bool]:
    """Return the session with QEMU, and whether its guest stood still and was resumed."""
    try:
        qmp = await Qmp.connect(host.directory(manifest.machine_id) / QMP_SOCKET)
    except HypervisorFailed:
        return None, False
    try:
        status = (await qmp.execute("query-status"))["status"]
        # A save was under way, and came to nothing.
        stood_still = status in PAUSED_STATES and not manifest.move_id
        if stood_still:
            await give_up(qmp)
            await thaw(qmp)
    except HypervisorFailed:
        await qmp.close()
        return None, False
    return qmp, stood_still


async def _set_clock(guest: Guest, manifest: Manifest) -> None:
    """Tell a guest the time that stood still for as long as nobody served it."""
    try:
        async with awake_timeout(CLOCK_TIMEOUT_S):
            await guest.set_clock(SystemClock().now().timestamp())
    except (SandfleetError, TimeoutError) as error:
        log.warning("clock_not_set", machine=manifest.machine_id, reason=str(error))


async def _half_moved(host: Host, machine: QemuMachine) -> QemuMachine:
    """Call back what another host has not got; what it may have stays as it is until that is decided."""
    is_source = machine.manifest.state == READY
    try:
        if is_source and not await is_handed_over(machine.monitor):
            await stay(host, machine)
            await _set_clock(machine.guest, machine.manifest)
    except (HypervisorFailed, GuestUnresponsive) as error:
        log.warning("move_not_called_back", machine=machine.manifest.machine_id, reason=error.message)
    return machine


async def _measured(qmp: Qmp, manifest: Manifest) -> Manifest:
    try:
        return msgspec.structs.replace(manifest, memory_mib=await memory.current(qmp, manifest.shape))
    except HypervisorFailed:
        return manifest
