"""The disks of a running machine as chains of layers: switched to a new overlay, and made short again.

Facts that decide the form:

- A layer is written by one QEMU until another overlay stands on it, and never again.
- QEMU opens a layer again when it stops writing to it, read-only: so it is given the file twice.
- Every layer of a chain costs each read a look-up, so that chains are kept short.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from qemu.qmp import EventListener, Message

from sandfleet.adapters.qemu.empty_overlay import MAGIC, write_empty_overlay
from sandfleet.adapters.qemu.host import Host
from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.adapters.qemu.manifest import DiskChain, Manifest
from sandfleet.adapters.qemu.qmp import FDSET, Qmp, QmpRefused, next_event
from sandfleet.model.errors import HypervisorFailed
from sandfleet.wire.qemu_command import DATA_DRIVE, ROOT_DRIVE, layer_node

LAYERS_MAX = 8
STREAM_SILENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class Fresh:
    """An empty overlay that QEMU knows as `node` and that nothing stands on yet."""

    name: str
    node: str


def first_chain(drive: str, layers: Sequence[str], *, backings: Sequence[Path]) -> DiskChain:
    """Return the chain of a disk as QEMU has it when it starts."""
    return DiskChain(
        layers=list(layers),
        nodes=[layer_node(drive, depth) for depth in range(len(layers))],
        base_node=layer_node(drive, len(layers)),
        backings=[str(path) for path in backings],
    )


def chain_of(manifest: Manifest, drive: str) -> DiskChain:
    """Return a disk's chain; a machine of an earlier version has none written down and is not saved."""
    chain = manifest.root if drive == ROOT_DRIVE else manifest.data
    if chain is None:
        raise HypervisorFailed(f"machine {manifest.machine_id} was started before snapshots existed")
    return chain


def new_layer_name(drive: str) -> str:
    """Return a file name that no layer of any machine has."""
    return f"{'root' if drive == ROOT_DRIVE else 'data'}-{secrets.token_hex(8)}.qcow2"


def virtual_size(layer: Path) -> int:
    """Return how large the guest sees a disk, in bytes, from the header of its newest layer."""
    with open(layer, "rb") as file:
        header = file.read(32)
    if len(header) < 32 or not header.startswith(MAGIC):
        raise HypervisorFailed(f"{layer} is no qcow2 file")
    return int(struct.unpack(">Q", header[24:32])[0])


async def add_overlays(host: Host, machine: QemuMachine) -> dict[str, Fresh]:
    """Make an empty overlay for each disk and have QEMU open it; nothing of the guest changes yet."""
    directory = host.directory(machine.manifest.machine_id)
    root, data = (directory / new_layer_name(drive) for drive in (ROOT_DRIVE, DATA_DRIVE))
    made = {ROOT_DRIVE: root, DATA_DRIVE: data}
    for drive, path in made.items():
        newest = directory / chain_of(machine.manifest, drive).layers[0]
        write_empty_overlay(path, backing=newest, size_bytes=virtual_size(newest))
    return {drive: await _open_overlay(machine.monitor, path) for drive, path in made.items()}


async def _open_overlay(qmp: Qmp, path: Path) -> Fresh:
    with ExitStack() as opened:
        writing, reading = (os.open(path, mode | os.O_CLOEXEC) for mode in (os.O_RDWR, os.O_RDONLY))
        opened.callback(os.close, writing)
        opened.callback(os.close, reading)
        known_as = await qmp.give(writing, reading)
    node = path.stem
    file = {"driver": "file", "node-name": f"{node}-f", "filename": known_as, "discard": "unmap"}
    image = {"driver": "qcow2", "node-name": node, "file": f"{node}-f", "backing": None, "discard": "unmap"}
    await qmp.execute("blockdev-add", file)
    await qmp.execute("blockdev-add", image)
    return Fresh(path.name, node)


async def switch(machine: QemuMachine, fresh: dict[str, Fresh]) -> None:
    """Let both disks go on in their new overlays, in one step; what was written so far is frozen."""
    manifest = machine.manifest
    actions = [
        {
            "type": "blockdev-snapshot",
            "data": {"node": chain_of(manifest, drive).nodes[0], "overlay": overlay.node},
        }
        for drive, overlay in fresh.items()
    ]
    await machine.monitor.execute("transaction", {"actions": actions})
    root, data = (_grown(chain_of(manifest, drive), fresh[drive]) for drive in (ROOT_DRIVE, DATA_DRIVE))
    machine.record(msgspec.structs.replace(machine.manifest, root=root, data=data))


async def remove_overlays(host: Host, machine: QemuMachine, fresh: dict[str, Fresh]) -> None:
    """Undo `add_overlays` for those that no disk goes on in."""
    for drive, overlay in fresh.items():
        if overlay.node in chain_of(machine.manifest, drive).nodes:
            continue
        await _close(machine.monitor, (overlay.node, f"{overlay.node}-f"))
        (host.directory(machine.manifest.machine_id) / overlay.name).unlink(missing_ok=True)


async def shorten(host: Host, machine: QemuMachine, *, layers_max: int = LAYERS_MAX - 1) -> None:
    """Bring the chain of each disk that has become long into its newest layer, while the guest runs."""
    for drive in (ROOT_DRIVE, DATA_DRIVE):
        chain = chain_of(machine.manifest, drive)
        if len(chain.layers) > layers_max:
            await _stream(machine.monitor, chain)
            short = msgspec.structs.replace(chain, layers=chain.layers[:1], nodes=chain.nodes[:1])
            changed = {"root": short} if drive == ROOT_DRIVE else {"data": short}
            machine.record(msgspec.structs.replace(machine.manifest, **changed))
            await _let_go(host, machine, chain)


async def _stream(qmp: Qmp, chain: DiskChain) -> None:
    job = f"shorten-{secrets.token_hex(4)}"
    with qmp.listen("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED") as ends:
        await qmp.execute(
            "block-stream",
            {"job-id": job, "device": chain.nodes[0], "base-node": chain.base_node, "on-error": "report"},
        )
        try:
            event = await _ended(ends, job)
        except BaseException:  # a job that nobody waits for would refuse the next save its disk
            with suppress(HypervisorFailed):
                await qmp.execute("block-job-cancel", {"device": job, "force": True})
                await _ended(ends, job)
            raise
    data: Any = event["data"]
    if event["event"] != "BLOCK_JOB_COMPLETED" or data.get("error"):
        raise HypervisorFailed(f"a disk could not be shortened: {data.get('error', 'cancelled')}")


async def _ended(ends: EventListener, job: str) -> Message:
    while True:
        event = await next_event(ends, timeout_s=STREAM_SILENCE_S, awaited="that a disk is shortened")
        data = event["data"]
        if isinstance(data, dict) and data.get("device") == job:
            return event


async def _let_go(host: Host, machine: QemuMachine, chain: DiskChain) -> None:
    """Close and remove the layers below the newest; snapshots that hold them keep their own names of them."""
    directory = host.directory(machine.manifest.machine_id)
    for layer, node in zip(chain.layers[1:], chain.nodes[1:], strict=True):
        # Of the two ways to name its file only one is in use.
        with suppress(QmpRefused):
            await _close(machine.monitor, (node, f"{node}-f", f"{node}-file"))
        (directory / layer).unlink(missing_ok=True)


async def _close(qmp: Qmp, nodes: Sequence[str]) -> None:
    """Have QEMU let go of a layer, and of the descriptors given to it for that: it keeps them by itself."""
    known = await qmp.files_of(nodes)
    for name in nodes:
        if name in known:
            await qmp.execute("blockdev-del", {"node-name": name})
    for path in {path for path in known.values() if path.startswith(FDSET)}:
        await qmp.take_back(path)


def _grown(chain: DiskChain, fresh: Fresh) -> DiskChain:
    return msgspec.structs.replace(
        chain, layers=[fresh.name, *chain.layers], nodes=[fresh.node, *chain.nodes]
    )
