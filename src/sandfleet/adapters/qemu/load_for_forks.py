"""Loading a snapshot for its forks: once, by a machine that never runs, into memory that they map.

What if it fails, or this process dies: the machine has no owner and is removed as every other that
was not finished; the files have no names. The forks load alone then.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import replace

from sandfleet.adapters.qemu import migration
from sandfleet.adapters.qemu.backings import Backings
from sandfleet.adapters.qemu.config import QMP_SOCKET
from sandfleet.adapters.qemu.erase import end_process
from sandfleet.adapters.qemu.fork_memory import ForkMemory
from sandfleet.adapters.qemu.host import Host
from sandfleet.adapters.qemu.launch import log_tail
from sandfleet.adapters.qemu.load import LoadOrder, Seated, take_seat
from sandfleet.adapters.qemu.qmp import Qmp
from sandfleet.adapters.qemu.spawn import spawn
from sandfleet.model.errors import HypervisorFailed


async def load_for_forks(host: Host, order: LoadOrder, backings: Backings) -> ForkMemory:
    """Return what the forks of a verified snapshot share; nothing else is left of the load."""
    size_bytes = order.snapshot.shape.memory_base_mib << 20
    memory = await asyncio.to_thread(ForkMemory.new, size_bytes)
    try:
        async with AsyncExitStack() as undo:
            await _fill(host, undo, memory, order, await take_seat(host, undo, order, backings))
        memory.seal()
    except BaseException:
        memory.close()
        raise
    return memory


async def _fill(
    host: Host, undo: AsyncExitStack, memory: ForkMemory, order: LoadOrder, seated: Seated
) -> None:
    manifest = seated.manifest
    memory.let_write(manifest.uid)
    recipe = replace(seated.recipe(order), memory=memory.pages, fills_memory=True)
    spawned = await spawn(host, manifest, recipe)
    undo.push_async_callback(end_process, spawned.process)
    directory = host.directory(manifest.machine_id)
    try:
        qmp = await Qmp.connect(directory / QMP_SOCKET)
        undo.push_async_callback(qmp.close)
        await migration.load_from(qmp, spawned.state_path, memory_format=order.snapshot.memory_format)
        devices = os.open(memory.devices, os.O_WRONLY | os.O_CLOEXEC)
        try:
            path = await qmp.give(devices)
        finally:
            os.close(devices)
        await migration.save_apart(qmp, path)
    except HypervisorFailed as error:
        raise HypervisorFailed(f"{error.message} {log_tail(directory)}".strip()) from error
