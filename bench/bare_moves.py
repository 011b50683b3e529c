"""The floor of moving: one bare QEMU sends its guest to another, which waits for it on the same machine.

Disks are mirrored until they are in step, then memory follows: while the guest runs, or at once when it must
stand still, by one connection. Nothing is written down or asked of anybody; both channels are sealed with the
product's ciphers, or not at all. What is timed is what the guest's users would see: from its stop to its
agent's hello at the other QEMU.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qemu.qmp import EventListener

from bench.bare_clones import BareClone, BareClones, Seat
from bench.samples import Samples
from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.qemu import mirror, move_keys
from sandfleet.adapters.qemu.chains import chain_of
from sandfleet.adapters.qemu.clone import UNANNOUNCED
from sandfleet.adapters.qemu.config import AGENT_SOCKET, QMP_SOCKET
from sandfleet.adapters.qemu.erase import end_process
from sandfleet.adapters.qemu.machine import QemuMachine, Sessions
from sandfleet.adapters.qemu.migration import BYTES_PER_S_MAX, ended, prepare_move
from sandfleet.adapters.qemu.process import ProcessHandle
from sandfleet.adapters.qemu.qmp import Qmp, event_or_pause
from sandfleet.adapters.qemu.standstill import thaw
from sandfleet.adapters.qemu.take_over import landed

_LOOPBACK = "127.0.0.1"
_DISK_SOCKET = "floor-disks"
_DOWNTIME_MS = 500
_ROUNDS_MAX = 3000
_LOOK_S = 0.02


async def move(
    clones: BareClones, source: BareClone, *, is_still: bool, is_sealed: bool, stood_still: Samples
) -> BareClone:
    """Return the clone that goes on elsewhere; the one that was sent is removed."""
    target = await _expect(await clones.seat())
    try:
        if is_sealed:
            await _share_key(source.machine, target)
        await _send(source, target, is_still=is_still, is_sealed=is_sealed, stood_still=stood_still)
    except BaseException:
        await target.destroy()
        raise
    await source.destroy()
    return BareClone(target)


async def _expect(seat: Seat) -> QemuMachine:
    """Start a QEMU that waits for disks, memory and devices."""
    directory = seat.host.directory(seat.manifest.machine_id)
    recipe = replace(seat.recipe(directory), memory=None, state=None)
    async with seat.undo.pop_all() as undo:
        spawned = await seat.spawn(recipe)
        undo.push_async_callback(end_process, spawned.process)
        qmp = await Qmp.connect(directory / QMP_SOCKET)
        undo.pop_all()
    seat.host.busy.discard(seat.manifest.machine_id)
    sessions = Sessions(ProcessHandle(spawned.process), qmp, None)
    return QemuMachine(seat.host, seat.manifest_of(spawned.process, recipe), sessions)


async def _share_key(source: QemuMachine, target: QemuMachine) -> None:
    """Have both QEMUs know one key, for all connections of this move."""
    key = move_keys.new_key()
    for machine, endpoint in ((target, move_keys.RECEIVING), (source, move_keys.SENDING)):
        directory = machine.host.directory(machine.manifest.machine_id)
        uid = machine.manifest.uid
        await move_keys.add_credentials(machine.monitor, directory, uid=uid, key=key, endpoint=endpoint)


async def _send(
    source: BareClone, target: QemuMachine, *, is_still: bool, is_sealed: bool, stood_still: Samples
) -> None:
    there, here = target.monitor, source.machine.monitor
    tls = {"tls-creds": move_keys.CREDENTIALS} if is_sealed else {}
    port = await _await_guest(there, tls)
    await _mirror(source.machine, await _offer_disks(there, tls), tls)
    parameters = {"tls-creds": "", "max-bandwidth": BYTES_PER_S_MAX, "downtime-limit": _DOWNTIME_MS, **tls}
    await prepare_move(here, ["events", "pause-before-switchover", "return-path"], parameters)
    await source.guest.close()
    with here.listen("STOP") as stops, here.listen("MIGRATION") as moves:
        if is_still:
            await here.execute("stop")
        await here.execute_when_ready("migrate", {"uri": f"tcp:{_LOOPBACK}:{port}"})
        await _paused(here, moves)
        stopped_at_s = _moment_s(await here.next_event(stops, timeout_s=1.0, awaited="that the guest stands"))
        await mirror.finish(here)
        await here.execute("migrate-continue", {"state": "pre-switchover"})
        await ended(here, moves)
    await landed(target)
    await there.execute("nbd-server-stop")
    await thaw(there)
    await move_keys.remove_credentials(there, target.host.directory(target.manifest.machine_id))
    assert target.sessions is not None
    directory = target.host.directory(target.manifest.machine_id)
    target.sessions.guest = await target.host.guests(directory / AGENT_SOCKET)
    stood_still.values.append((SystemClock().now().timestamp() - stopped_at_s) * 1000)


async def _await_guest(qmp: Qmp, tls: Mapping[str, str]) -> int:
    """Have QEMU wait for memory and devices; return the port."""
    parameters = {"tls-creds": "", "max-bandwidth": BYTES_PER_S_MAX, **UNANNOUNCED, **tls}
    await prepare_move(qmp, ["events", "late-block-activate", "return-path"], parameters)
    await qmp.execute("migrate-incoming", {"uri": f"tcp:{_LOOPBACK}:0"})
    return int((await qmp.execute("query-migrate"))["socket-address"][0]["port"])


async def _offer_disks(qmp: Qmp, tls: Mapping[str, str]) -> int:
    """Have QEMU take the writes of both disks; return the port."""
    with socket.socket() as listening:
        listening.bind((_LOOPBACK, 0))
        await qmp.give_socket(listening.fileno(), name=_DISK_SOCKET)
        port = int(listening.getsockname()[1])
    await qmp.execute("nbd-server-start", {"addr": {"type": "fd", "data": {"str": _DISK_SOCKET}}, **tls})
    for drive in mirror.DRIVES:
        export = {"type": "nbd", "id": drive, "name": drive, "node-name": drive, "writable": True}
        await qmp.execute("block-export-add", export)
    return port


async def _mirror(machine: QemuMachine, port: int, tls: Mapping[str, str]) -> None:
    """Return when both disks are the same here and there."""
    qmp = machine.monitor
    for drive in mirror.DRIVES:
        server = {"type": "inet", "host": _LOOPBACK, "port": str(port)}
        name = mirror.job_name(drive)
        await qmp.execute(
            "blockdev-add", {"driver": "nbd", "node-name": name, "server": server, "export": drive, **tls}
        )
        job = {"job-id": name, "target": name, "sync": "top", "copy-mode": "write-blocking"}
        await qmp.execute("blockdev-mirror", {**job, "device": chain_of(machine.manifest, drive).nodes[0]})
    with qmp.listen(*mirror.EVENTS) as events:
        for _ in range(_ROUNDS_MAX):
            if all(job["ready"] for job in (await mirror.jobs(qmp)).values()):
                return
            await event_or_pause(events, _LOOK_S)
    raise RuntimeError("the bare clone's disks do not come into step")


async def _paused(qmp: Qmp, moves: EventListener) -> None:
    """Return when the guest stands still and nothing but the hand-over is left."""
    for _ in range(_ROUNDS_MAX):
        status = (await qmp.execute("query-migrate")).get("status")
        if status == "pre-switchover":
            return
        if status in ("failed", "cancelled", "completed"):
            raise RuntimeError(f"the bare clone's move has {status}")
        await event_or_pause(moves, _LOOK_S)
    raise RuntimeError("the bare clone's memory is not copied")


def _moment_s(event: Any) -> float:
    """Return when QEMU saw it happen."""
    return float(event["timestamp"]["seconds"]) + float(event["timestamp"]["microseconds"]) / 1e6
