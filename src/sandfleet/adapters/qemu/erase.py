"""Removing a machine from the host, whatever is left of it: one way for destroy, failed starts and sweeps.

Order: the process first (until it has ended everything else is in use), then the
namespace and the groups, the directory with the manifest last, so that an
interrupted removal is found and done again.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from sandfleet.adapters.qemu.config import PID_FILE
from sandfleet.adapters.qemu.host import Host
from sandfleet.adapters.qemu.manifest import MANIFEST_FILE, ProcessIdentity
from sandfleet.adapters.qemu.process import ProcessHandle, identify, is_running
from sandfleet.model.errors import HypervisorFailed

END_TIMEOUT_S = 20.0
_COMMAND_LINE_MAX = 1 << 17


async def erase(host: Host, machine_id: str, *, process: ProcessIdentity | None, slot: int | None) -> None:
    """End the machine's process and remove everything of it. Idempotent."""
    directory = host.directory(machine_id)
    await host.faults.at("erase.begun")
    for known in {process, recorded_process(directory, machine_id)} - {None}:
        if known is not None:
            await end_process(known)
    await host.faults.at("erase.ended")
    host.fork_memories.forget(machine_id)
    host.cgroups.kill_all(machine_id)
    await host.network.detach(machine_id)
    await host.faults.at("erase.detached")
    await host.cgroups.remove(machine_id)
    await asyncio.to_thread(_remove_directory, directory)
    await host.faults.at("erase.removed")
    if slot is not None:
        host.slots.release(slot)


async def end_process(process: ProcessIdentity) -> None:
    """Kill exactly this process and return when it has ended."""
    if not is_running(process):
        return
    try:
        handle = ProcessHandle(process)
    except HypervisorFailed:
        return  # It ended in between.
    try:
        handle.kill()
        async with asyncio.timeout(END_TIMEOUT_S):
            await handle.ended()
    except TimeoutError:
        raise HypervisorFailed(f"process {process.pid} did not end within {END_TIMEOUT_S:g} s") from None
    finally:
        handle.close()


def recorded_process(directory: Path, machine_id: str) -> ProcessIdentity | None:
    """Return the process whose launcher wrote its pid here, if it still is the machine's.

    The launcher writes the pid before the manifest can name the process. That the
    command line has the machine's id tells it from a later process with the same pid.
    """
    try:
        pid = int((directory / PID_FILE).read_text())
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command_line = file.read(_COMMAND_LINE_MAX)
        if machine_id.encode() not in command_line:
            return None
        return identify(pid)
    except (OSError, ValueError, HypervisorFailed):
        return None


def _remove_directory(directory: Path) -> None:
    if not directory.exists():
        return
    for child in directory.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        elif child.name != MANIFEST_FILE:
            child.unlink(missing_ok=True)
    shutil.rmtree(directory)
