"""Making the place for a machine that another host sends: empty layers on the same backings, a QEMU waiting.

Nothing of this host's templates is used: the place has the shape that the manifest says. Its
directory, slot and namespace are this attempt's own. It runs when it is told to and never by itself.

What if this process dies
    before the manifest says `arriving`   the next one removes it: nobody was told of it
    afterwards                            it goes on waiting, and receiving, until it is told what to do
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from sandfleet.adapters.qemu import disks, memory, move_keys
from sandfleet.adapters.qemu.backings import Backings
from sandfleet.adapters.qemu.chains import first_chain, new_layer_name
from sandfleet.adapters.qemu.clone import seat
from sandfleet.adapters.qemu.config import QMP_SOCKET
from sandfleet.adapters.qemu.describe import machine_order, machine_shape, spawned_for
from sandfleet.adapters.qemu.erase import end_process
from sandfleet.adapters.qemu.host import Host, limits
from sandfleet.adapters.qemu.launch import log_tail
from sandfleet.adapters.qemu.machine import QemuMachine, Sessions
from sandfleet.adapters.qemu.manifest import ARRIVING, Manifest, write_manifest
from sandfleet.adapters.qemu.migration import BYTES_PER_S_MAX, CHANNELS, UNANNOUNCED, prepare_move
from sandfleet.adapters.qemu.process import ProcessHandle
from sandfleet.adapters.qemu.qmp import Qmp, QmpRefused
from sandfleet.adapters.qemu.spawn import SpawnRecipe, spawn
from sandfleet.adapters.together import both
from sandfleet.model.errors import HypervisorFailed
from sandfleet.ports.moves import Arrival
from sandfleet.ports.network import NetworkSeat
from sandfleet.wire.move_manifest import Landing, MovedDisk
from sandfleet.wire.qemu_command import DATA_DRIVE, ROOT_DRIVE

CAPABILITIES = ("events", "late-block-activate", "return-path")
POST_COPY = ("postcopy-ram", "postcopy-preempt")
SEVERAL = ("multifd",)
"""Excludes that memory follows its guest. Of one connection each page is sealed and opened by itself, by one
thread on either side: a guest that stands still for all of its copy waits for that twice as long."""
_DISK_SOCKET = "move-disks"


async def receive(host: Host, arrival: Arrival, backings: Backings) -> tuple[QemuMachine, Landing]:
    """Return the waiting machine and where it is expected; a failure leaves nothing behind."""
    moved = arrival.manifest
    async with AsyncExitStack() as undo:
        shape = machine_shape(moved.shape)
        manifest = seat(
            host, undo, machine_order(moved), template_version=moved.template_version, shape=shape
        )
        directory = host.directory(manifest.machine_id)
        root = await _disk(host, directory, ROOT_DRIVE, moved.root, backings)
        data = await _disk(host, directory, DATA_DRIVE, moved.data, backings)
        recipe = SpawnRecipe(
            shape=shape,
            memory=None,
            state=None,
            root=root,
            data=data,
            limits=limits(
                memory_mib=moved.memory_mib, cpu_count=moved.cpu_count, cpu_percent=moved.cpu_percent
            ),
        )
        spawned = await spawn(host, manifest, recipe)
        undo.push_async_callback(end_process, spawned.process)
        manifest = spawned_for(manifest, spawned.process, moved, owner=arrival.owner, epoch=arrival.epoch)
        manifest = msgspec.structs.replace(
            manifest,
            move_id=arrival.move_id,
            root=first_chain(ROOT_DRIVE, [root[0].name], backings=root[1:]),
            data=first_chain(DATA_DRIVE, [data[0].name], backings=data[1:]),
        )
        seat_of = NetworkSeat(manifest.machine_id, manifest.slot)
        connecting = host.network.connect(seat_of, enabled=moved.network_enabled)
        machine = await both(_open(host, undo, manifest, arrival), connecting)
        await host.faults.at("land.listening")
        await asyncio.to_thread(write_manifest, directory, machine.manifest, durable=True)
        undo.pop_all()
        host.busy.discard(manifest.machine_id)
        return machine, landing_of(host, machine.manifest)


def landing_of(host: Host, manifest: Manifest) -> Landing:
    """Return where the machine of an arriving manifest is expected."""
    memory_port, disk_port = manifest.landing_ports
    return Landing(
        host=manifest.landing_host,
        memory_port=memory_port,
        disk_port=disk_port,
        key=move_keys.known_key(host.directory(manifest.machine_id)),
        may_post_copy=manifest.may_post_copy,
        channels=manifest.landing_channels,
    )


async def _disk(host: Host, directory: Path, drive: str, moved: MovedDisk, backings: Backings) -> list[Path]:
    """Put an empty layer on what the disk stands on."""
    below = [await asyncio.to_thread(backings.require, digest) for digest in moved.backings]
    overlay = directory / new_layer_name(drive)
    await disks.create_overlay(host.config.image_tool, overlay, backing=below[0], size_bytes=moved.size_bytes)
    overlay.chmod(0o600)
    return [overlay, *below]


async def _open(host: Host, undo: AsyncExitStack, manifest: Manifest, arrival: Arrival) -> QemuMachine:
    assert manifest.process is not None
    handle = ProcessHandle(manifest.process)
    undo.callback(handle.close)
    directory = host.directory(manifest.machine_id)
    try:
        qmp = await Qmp.connect(directory / QMP_SOCKET)
        undo.push_async_callback(qmp.close)
        key = move_keys.new_key()
        await move_keys.add_credentials(
            qmp, directory, uid=manifest.uid, key=key, endpoint=move_keys.RECEIVING
        )
        disk_port = await _export_disks(qmp, arrival.host)
        channels = _channels(arrival)
        may_post_copy = await _prepare(qmp, channels=channels)
        memory_port = await _await_memory(qmp, arrival.host)
    except HypervisorFailed as error:
        raise HypervisorFailed(f"{error.message} {log_tail(directory)}".strip()) from error
    manifest = msgspec.structs.replace(
        manifest,
        state=ARRIVING,
        landing_host=arrival.host,
        landing_ports=[memory_port, disk_port],
        landing_channels=channels,
        may_post_copy=may_post_copy,
    )
    return QemuMachine(host, manifest, Sessions(handle, qmp, None))


async def _export_disks(qmp: Qmp, address: str) -> int:
    """Offer both empty layers to whoever has the key; return the port."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listening:
        listening.bind((address, 0))
        await qmp.give_socket(listening.fileno(), name=_DISK_SOCKET)
        port = int(listening.getsockname()[1])
    where = {"type": "fd", "data": {"str": _DISK_SOCKET}}
    await qmp.execute("nbd-server-start", {"addr": where, "tls-creds": move_keys.CREDENTIALS})
    for drive in (ROOT_DRIVE, DATA_DRIVE):
        export = {"type": "nbd", "id": drive, "name": drive, "node-name": drive, "writable": True}
        await qmp.execute("block-export-add", export)
    return port


def _channels(arrival: Arrival) -> int:
    """Return by how many connections the memory comes: several where its guest stands still for it."""
    moved = arrival.manifest
    if arrival.may_post_copy or memory.are_writes_seen(machine_shape(moved.shape), moved.memory_mib):
        return 0
    return min(CHANNELS, moved.channels_max)


async def _prepare(qmp: Qmp, *, channels: int) -> bool:
    """Set how the memory is received; return whether it may follow its guest."""
    parameters = {"tls-creds": move_keys.CREDENTIALS, "max-bandwidth": BYTES_PER_S_MAX, **UNANNOUNCED}
    if channels:
        await prepare_move(qmp, [*CAPABILITIES, *SEVERAL], {**parameters, "multifd-channels": channels})
        return False
    try:
        await prepare_move(qmp, [*CAPABILITIES, *POST_COPY], parameters)
    except QmpRefused:
        await prepare_move(qmp, CAPABILITIES, parameters)
        return False
    return True


async def _await_memory(qmp: Qmp, address: str) -> int:
    name = f"[{address}]" if ":" in address else address
    await qmp.execute("migrate-incoming", {"uri": f"tcp:{name}:0"})
    described = await qmp.execute("query-migrate")
    return int(described["socket-address"][0]["port"])
