"""The floor of saving: what QEMU itself takes to write a bare clone, to load it, and to freeze its disks.

A save is synced, since QEMU may not end before it is; it is not read back, compared or named.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.bare_clones import BareClone, BareClones
from bench.samples import Samples
from sandfleet.adapters.qemu import chains, migration
from sandfleet.adapters.qemu.config import DATA_OVERLAY, ROOT_OVERLAY
from sandfleet.adapters.qemu.erase import end_process
from sandfleet.adapters.qemu.qmp import Qmp

MEMORY_FILE = "memory"
_DEVICES_FILE = "devices"


@dataclass(frozen=True, slots=True)
class BareSave:
    """A saved clone: its memory and devices in one file, and its disks, in one directory."""

    directory: Path

    @property
    def memory(self) -> Path:
        """Return the file of memory and devices."""
        return self.directory / MEMORY_FILE


async def save(clone: BareClone, directory: Path, *, frozen: Samples, written: Samples) -> BareSave:
    """Stop the clone, write all of it (`written`), sync it (`frozen`), end its QEMU and keep its disks."""
    saved, qmp = BareSave(directory), clone.machine.monitor
    with _handed_over(saved.memory) as memory:
        path = await qmp.give(memory)
    with frozen.timed_ms():
        with written.timed_ms():
            await qmp.execute("stop")
            await migration.save_stopped(qmp, path)
        await asyncio.to_thread(_sync, saved.memory)
    process = clone.machine.manifest.process
    assert process is not None
    await end_process(process)
    own = clone.machine.host.directory(clone.machine.manifest.machine_id)
    for name in (ROOT_OVERLAY, DATA_OVERLAY):
        os.link(own / name, directory / name)
    return saved


async def load(clones: BareClones, saved: BareSave, *, answered: Samples) -> BareClone:
    """Start a clone that goes on where the saved one stopped, up to its first command's end."""
    seat = await clones.seat()
    own = seat.host.directory(seat.manifest.machine_id)
    for name in (ROOT_OVERLAY, DATA_OVERLAY):
        (own / name).unlink()
        os.link(saved.directory / name, own / name)
    with answered.timed_ms():
        clone = await replace(seat, saved=saved.memory).start()
        await clone.execute("true", "-")
    return clone


async def freeze(clone: BareClone, *, frozen: Samples) -> None:
    """Stop the clone, write its devices, let its disks go on in overlays that are open already, run it."""
    machine = clone.machine
    directory = machine.host.directory(machine.manifest.machine_id)
    fresh = await chains.add_overlays(machine.host, machine)
    with _handed_over(directory / _DEVICES_FILE) as devices:
        path = await machine.monitor.give(devices)
    with frozen.timed_ms():
        await machine.monitor.execute("stop")
        await _write_devices(machine.monitor, path)
        await chains.switch(machine, fresh)
        await machine.monitor.execute("cont")
    await machine.monitor.take_back(path)
    (directory / _DEVICES_FILE).unlink()
    await chains.shorten(machine.host, machine)


async def _write_devices(qmp: Qmp, path: str) -> None:
    await qmp.execute("xen-save-devices-state", {"filename": path, "live": False})


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@contextmanager
def _handed_over(path: Path) -> Iterator[int]:
    """Hold a new file open until QEMU has a descriptor of its own."""
    with ExitStack() as opened:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        opened.callback(os.close, descriptor)
        yield descriptor
