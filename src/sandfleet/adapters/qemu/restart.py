"""Booting a machine's own disks anew: the same directory, disks, slot and owner, another QEMU.

Facts that decide the form:

- A clone has no kernel on its command line: it began in the middle of a run. So a boot
  gives kernel and initrd again, those of the image that its root disk stands on.
- What ran before is gone, its memory with it: the new memory is the machine's own, empty.
- A namespace cannot be entered by a second tap of the same name while the first lives, so
  the network is made anew; the addresses are those of the slot and stay.

What if this process dies
    before the old QEMU has ended   adoption finds the machine as it was
    afterwards                      adoption finds it dead, with its disks; the repeated order boots it
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import structlog

from sandfleet.adapters.awake import awake_timeout
from sandfleet.adapters.qemu.chains import chain_of, first_chain
from sandfleet.adapters.qemu.config import AGENT_SOCKET, QMP_SOCKET, ImageFiles
from sandfleet.adapters.qemu.erase import end_process
from sandfleet.adapters.qemu.host import Host, limits
from sandfleet.adapters.qemu.launch import log_tail
from sandfleet.adapters.qemu.machine import QemuMachine, Sessions
from sandfleet.adapters.qemu.manifest import Manifest, write_manifest
from sandfleet.adapters.qemu.process import ProcessHandle
from sandfleet.adapters.qemu.qmp import Qmp
from sandfleet.adapters.qemu.spawn import KernelFiles, SpawnRecipe, spawn
from sandfleet.adapters.qemu.template import DEFAULT_KERNEL_ARGUMENTS
from sandfleet.model.errors import GuestUnresponsive, HypervisorFailed
from sandfleet.ports.guest import Guest
from sandfleet.ports.network import NetworkSeat
from sandfleet.wire.qemu_command import DATA_DRIVE, ROOT_DRIVE

log = structlog.get_logger(__name__)
CLEAN_END_S = 15.0
"""A guest that has not ended by then is ended."""
BOOT_TIMEOUT_S = 100.0
_SCRATCH_STATE = "boot-state"
_KERNEL, _INITRD = "vmlinuz", "initrd"


async def restart(machine: QemuMachine, images: Sequence[ImageFiles], *, is_clean: bool) -> None:
    """Return when the new guest's agent answers and the machine has its old size."""
    before = machine.manifest
    kernel = boot_files(before, images)
    async with machine.changing:
        if is_clean:
            await _end_cleanly(machine)
        await machine.release()
        if before.process is not None:
            await end_process(before.process)
        await machine.host.network.detach(before.machine_id)
        await _boot(machine, kernel)
    if before.cpu_count > 1:
        await machine.set_cpu_count(before.cpu_count)
    reached = await machine.resize_memory(before.memory_mib)
    if reached < before.memory_mib:
        raise HypervisorFailed(f"the guest took {reached} of {before.memory_mib} MiB")


def boot_files(manifest: Manifest, images: Sequence[ImageFiles]) -> KernelFiles:
    """Return the kernel of the image below the machine's root disk, else of its name's current one."""
    for image in images:
        if manifest.image_digest and image.digest == manifest.image_digest:
            return KernelFiles(image.kernel, image.initrd, DEFAULT_KERNEL_ARGUMENTS)
    folder = Path(chain_of(manifest, ROOT_DRIVE).backings[-1]).parent
    if (folder / _KERNEL).exists() and (folder / _INITRD).exists():
        return KernelFiles(folder / _KERNEL, folder / _INITRD, DEFAULT_KERNEL_ARGUMENTS)
    for image in images:
        if image.name == manifest.template:
            return KernelFiles(image.kernel, image.initrd, DEFAULT_KERNEL_ARGUMENTS)
    raise HypervisorFailed(f"this host has no kernel of image {manifest.template}")


async def _end_cleanly(machine: QemuMachine) -> None:
    """Ask the guest to write everything and power off; what does not answer is ended all the same."""
    sessions = machine.sessions
    if sessions is None or sessions.guest is None:
        return
    try:
        async with asyncio.timeout(CLEAN_END_S):
            await sessions.guest.shut_down()
            await sessions.handle.ended()
    except (TimeoutError, GuestUnresponsive) as error:
        log.warning("guest_not_ended", machine=machine.manifest.machine_id, reason=str(error))


async def _boot(machine: QemuMachine, kernel: KernelFiles) -> None:
    host, before = machine.host, machine.manifest
    directory = host.directory(before.machine_id)
    root, data = chain_of(before, ROOT_DRIVE), chain_of(before, DATA_DRIVE)
    base_mib = before.shape.memory_base_mib
    recipe = SpawnRecipe(
        shape=before.shape,
        memory=None,
        state=directory / _SCRATCH_STATE,
        root=[*(directory / name for name in root.layers), *map(Path, root.backings)],
        data=[*(directory / name for name in data.layers), *map(Path, data.backings)],
        limits=limits(memory_mib=base_mib, cpu_count=before.cpu_count, cpu_percent=before.cpu_percent),
        kernel=kernel,
    )
    async with AsyncExitStack() as undo:
        undo.push_async_callback(host.network.detach, before.machine_id)
        spawned = await spawn(host, before, recipe)
        undo.push_async_callback(end_process, spawned.process)
        (directory / _SCRATCH_STATE).unlink(missing_ok=True)
        manifest = msgspec.structs.replace(
            before,
            process=spawned.process,
            memory_mib=base_mib,
            cpu_count=1,
            root=first_chain(ROOT_DRIVE, root.layers, backings=list(map(Path, root.backings))),
            data=first_chain(DATA_DRIVE, data.layers, backings=list(map(Path, data.backings))),
        )
        await asyncio.to_thread(write_manifest, directory, manifest, durable=True)
        machine.manifest = manifest
        seat = NetworkSeat(before.machine_id, before.slot)
        await host.network.connect(seat, enabled=before.network_enabled)
        machine.sessions = await _open_sessions(host, undo, manifest)
        undo.pop_all()


async def _open_sessions(host: Host, undo: AsyncExitStack, manifest: Manifest) -> Sessions:
    directory = host.directory(manifest.machine_id)
    assert manifest.process is not None
    handle = ProcessHandle(manifest.process)
    undo.callback(handle.close)
    qmp = await Qmp.connect(directory / QMP_SOCKET)
    undo.push_async_callback(qmp.close)
    try:
        async with awake_timeout(BOOT_TIMEOUT_S):
            return Sessions(handle, qmp, await _first_answer(host, directory / AGENT_SOCKET, handle))
    except TimeoutError as error:
        reason = f"no answer within {BOOT_TIMEOUT_S:.0f} s"
        raise HypervisorFailed(f"the guest did not boot: {reason} {log_tail(directory)}".strip()) from error
    except GuestUnresponsive as error:
        reason = f"QEMU ended ({await qmp.shutdown_cause() or 'without a word'})"
        raise HypervisorFailed(f"the guest did not boot: {reason} {log_tail(directory)}".strip()) from error


async def _first_answer(host: Host, socket: Path, handle: ProcessHandle) -> Guest:
    """Return a session once the booting guest's agent answers; the caller bounds the wait."""
    while True:
        if handle.has_ended():
            raise GuestUnresponsive("QEMU ended while its guest was booting")
        try:
            return await host.guests(socket)
        except GuestUnresponsive:
            await asyncio.sleep(0.1)
