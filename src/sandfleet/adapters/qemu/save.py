"""Saving a machine and ending it (hibernation), and saving one that runs on (capture).

Saving stops the guest, writes all of it, publishes the snapshot and only then ends QEMU:
until the publication every failure resumes the guest, after it nothing does.

Capturing lets both disks go on in new overlays while the guest stands still, and writes
memory in the background, if this host can; otherwise while it stands still.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from qemu.qmp import EventListener

from sandfleet.adapters.qemu import chains, migration, snapshot_files
from sandfleet.adapters.qemu.backings import Backings
from sandfleet.adapters.qemu.chains import chain_of
from sandfleet.adapters.qemu.describe import describe
from sandfleet.adapters.qemu.erase import end_process
from sandfleet.adapters.qemu.host import Host
from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.adapters.qemu.manifest import Manifest
from sandfleet.adapters.qemu.qmp import Qmp
from sandfleet.adapters.qemu.standstill import Standstill, give_up, standing_still
from sandfleet.model.errors import HypervisorFailed
from sandfleet.ports.clock import Clock
from sandfleet.ports.snapshots import SavedSnapshot
from sandfleet.wire.qemu_command import DATA_DRIVE, ROOT_DRIVE
from sandfleet.wire.snapshot_manifest import MEMORY_FILE, SnapshotManifest


@dataclass(frozen=True, slots=True)
class SaveOrder:
    """What saving needs beside the machine: names, and where things are."""

    snapshot_id: str
    backings: Backings
    clock: Clock


async def save(host: Host, machine: QemuMachine, order: SaveOrder) -> SavedSnapshot:
    """Save the machine to a snapshot and end its QEMU; a failure leaves it running as before."""
    async with machine.changing:
        await host.faults.at("save.begun")
        await chains.shorten(host, machine)
        with snapshot_files.staging(host.config.data_dir) as directory:
            async with _memory_file(machine.monitor, directory) as memory, standing_still(machine) as pause:
                await host.faults.at("save.stopped")
                taken_at_s = order.clock.now().timestamp()
                await migration.save_stopped(machine.monitor, memory)
                pause.done("written")
                await host.faults.at("save.written")
                written = _Written(directory, migration.MAPPED, taken_at_s, is_end=True)
                try:
                    manifest = await _publish(host, machine.manifest, order, written, pause=pause)
                finally:  # however it went: once the snapshot has its name, it is the sandbox
                    pause.is_final = _final(host, order).is_dir()
                    pause.measure()
            pause.done("published")
            await host.faults.at("save.published")
        process = machine.manifest.process
        await machine.release()
        if process is not None:
            await end_process(process)
        pause.done("ended")
        await host.faults.at("save.ended")
    return _saved(host, manifest, pause)


async def capture(host: Host, machine: QemuMachine, order: SaveOrder) -> SavedSnapshot:
    """Save the machine to a snapshot while its guest runs on."""
    async with machine.changing:
        await host.faults.at("capture.begun")
        await chains.shorten(host, machine)
        with snapshot_files.staging(host.config.data_dir) as directory:
            async with _memory_file(machine.monitor, directory) as memory:
                frozen = machine.manifest
                with machine.monitor.listen("MIGRATION") as moves:
                    memory_format, taken_at_s, pause = await _take(host, machine, order, memory, moves)
                    if memory_format == migration.STREAM:
                        await _written_out(machine.monitor, moves)
                pause.done("written")
                await host.faults.at("capture.written")
            written = _Written(directory, memory_format, taken_at_s, is_end=False)
            manifest = await _publish(host, frozen, order, written, pause=pause)
            pause.done("published")
            await host.faults.at("capture.published")
    return _saved(host, manifest, pause)


async def _take(
    host: Host, machine: QemuMachine, order: SaveOrder, memory: str, moves: EventListener
) -> tuple[str, float, Standstill]:
    """Take the instant: returns with the guest running again, its memory perhaps still being written."""
    fresh = await chains.add_overlays(host, machine)
    try:
        async with standing_still(machine) as pause:
            taken_at_s = order.clock.now().timestamp()
            await host.faults.at("capture.stopped")
            await chains.switch(machine, fresh)
            impossible = await migration.begin_background(machine.monitor, moves, memory)
            memory_format = migration.STREAM
            if impossible is not None:
                host.degradations["background"] = f"checkpoints stop their guest: {impossible.reason}"
                memory_format = migration.MAPPED
                await migration.save_stopped(machine.monitor, memory)
    finally:
        await chains.remove_overlays(host, machine, fresh)
    return memory_format, taken_at_s, pause


async def _written_out(qmp: Qmp, moves: EventListener) -> None:
    try:
        await migration.ended(qmp, moves)
    except BaseException:
        await give_up(qmp)
        raise


@asynccontextmanager
async def _memory_file(qmp: Qmp, directory: Path) -> AsyncIterator[str]:
    """Hold the file that memory is written to, as QEMU knows it."""
    try:
        fd = os.open(directory / MEMORY_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HypervisorFailed(f"the memory file cannot be made: {error.strerror}") from error
    try:
        path = await qmp.give(fd)
    finally:
        os.close(fd)
    try:
        yield path
    finally:  # else QEMU holds it, and its place on the disk, for as long as it runs
        with suppress(HypervisorFailed):
            await qmp.take_back(path)


@dataclass(frozen=True, slots=True)
class _Written:
    """What has been written, and of which instant. `is_end`: the machine does not go on after it."""

    directory: Path
    memory_format: str
    taken_at_s: float
    is_end: bool


async def _publish(
    host: Host, machine: Manifest, order: SaveOrder, written: _Written, *, pause: Standstill
) -> SnapshotManifest:
    def sync(paths: Sequence[Path]) -> None:
        for path in paths:
            snapshot_files.sync_file(path)
        pause.done("synced")

    def work() -> SnapshotManifest:
        layers = [name for drive in (ROOT_DRIVE, DATA_DRIVE) for name in chain_of(machine, drive).layers]
        snapshot_files.link_layers(host.directory(machine.machine_id), layers, written.directory)
        with ThreadPoolExecutor(max_workers=1) as beside:  # the disk is busy while the bytes are read
            paths = [written.directory / name for name in (MEMORY_FILE, *layers)]
            syncing = beside.submit(sync, paths)
            manifest = describe(
                written.directory,
                machine,
                order.backings,
                snapshot_id=order.snapshot_id,
                memory_format=written.memory_format,
                taken_at_s=written.taken_at_s,
            )
            pause.done("digested")
            syncing.result()
        final = _final(host, order)
        ended = machine.machine_id if written.is_end else None
        snapshot_files.publish(written.directory, manifest, final, ended_machine=ended)
        return manifest

    working = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        # A thread does not stop: until it has ended nobody knows whether the snapshot came to be.
        await asyncio.wait([working])
        raise
    except OSError as error:
        raise HypervisorFailed(f"the snapshot could not be written: {error.strerror}") from error


def _final(host: Host, order: SaveOrder) -> Path:
    return snapshot_files.snapshot_dir(host.config.data_dir, order.snapshot_id)


def _saved(host: Host, manifest: SnapshotManifest, pause: Standstill) -> SavedSnapshot:
    directory = snapshot_files.snapshot_dir(host.config.data_dir, manifest.snapshot_id)
    size = snapshot_files.size_bytes(directory, manifest)
    return SavedSnapshot(
        manifest=manifest, directory=directory, size_bytes=size, pause_s=pause.took_s, steps_ms=pause.steps_ms
    )
