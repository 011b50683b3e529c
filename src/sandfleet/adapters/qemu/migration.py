"""Migrations to and from files, each watched by what it moves: one that stands still is given up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qemu.qmp import EventListener

from sandfleet.adapters.qemu.qmp import Qmp, QmpRefused, event_or_pause, set_capabilities
from sandfleet.model.errors import HypervisorFailed

MAPPED = "mapped"
"""Each page has its place in the file: written and read by several threads, sparse."""
STREAM = "stream"
"""Pages in the order of their saving: what a background save writes."""
APART = "apart"
"""Without the memory that is a file of its own and shared: devices, and what was plugged."""
CAPABILITIES: Mapping[str, Sequence[str]] = {
    MAPPED: ("mapped-ram", "multifd", "events"),
    STREAM: ("events",),
    APART: ("x-ignore-shared", "events"),
}
CHANNELS = 2
BYTES_PER_S_MAX = 1 << 36
"""QEMU's own limit is meant for networks: a guest would stand still until its next second begins."""
UNANNOUNCED: Mapping[str, int] = {"announce-rounds": 0}
"""Only the guest's own gateway would hear it, and asks when it must; each costs a translated guest time."""
LOOK_EVERY_S = 1.0
SILENT_ROUNDS_MAX = 30
ANSWER_S = 60.0
"""A QEMU that reads its guest's memory answers nothing before it has: on a busy host that takes its time."""
BEGIN_ROUNDS_MAX = 5000
_BEGIN_POLL_S = 0.002
_NONE: Mapping[str, int] = {}
_ENDS = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Impossible:
    """A background save that could not begin, and why; the guest stands still as before."""

    reason: str


async def save_stopped(qmp: Qmp, path: str) -> None:
    """Write memory and devices of a stopped guest to the file that QEMU knows as `path`."""
    with qmp.listen("MIGRATION") as moves:
        await _prepare(qmp, CAPABILITIES[MAPPED])
        await _begin(qmp, "migrate", path)
        await ended(qmp, moves)


async def save_apart(qmp: Qmp, path: str) -> None:
    """Write what is not shared of a stopped guest: devices, and memory beyond the base.

    Fact: where memory is plugged, QEMU without KVM now and then ends while it looks for what has changed,
    by a check of its own (tlb_reset_dirty_range_all). A background save does not look for changes, and
    where nothing runs there are none.
    """
    with qmp.listen("MIGRATION") as moves:
        try:
            await _prepare(qmp, (*CAPABILITIES[APART], "background-snapshot"))
            await _begin(qmp, "migrate", path)
        except QmpRefused:
            await _prepare(qmp, CAPABILITIES[APART])
            await _begin(qmp, "migrate", path)
        await ended(qmp, moves)


async def begin_background(qmp: Qmp, moves: EventListener, path: str) -> Impossible | None:
    """Begin to write memory and devices of a stopped guest, so far that it may run on.

    QEMU has the devices and protects all memory once the first page has been written. Its headers count as
    transferred before that: whoever let the guest run by them would have devices and memory of two instants.
    """
    try:
        await _prepare(qmp, ["background-snapshot", "events"])
        await _begin(qmp, "migrate", path)
    except QmpRefused as error:
        return Impossible(error.message)
    for _ in range(BEGIN_ROUNDS_MAX):
        described = await qmp.execute("query-migrate")
        if described.get("status") in ("failed", "cancelled"):
            return Impossible(str(described.get("error-desc", "QEMU does not say why")))
        if described.get("status") == "completed" or _pages_written(described) > 0:
            return None
        await event_or_pause(moves, _BEGIN_POLL_S)
    raise HypervisorFailed("QEMU did not begin to save its guest")


def _pages_written(described: Mapping[str, Any]) -> int:
    ram = described.get("ram", {})
    return int(ram.get("normal", 0)) + int(ram.get("duplicate", 0))


async def load_from(qmp: Qmp, path: str, *, memory_format: str) -> None:
    """Read memory and devices of a waiting QEMU from a file; the guest stays stopped."""
    with qmp.listen("MIGRATION") as moves:
        await _prepare(qmp, CAPABILITIES[memory_format], UNANNOUNCED)
        await qmp.execute("migrate-incoming", {"uri": f"file:{path}"})
        await ended(qmp, moves)


async def ended(qmp: Qmp, moves: EventListener) -> None:
    """Return when the migration under way has completed; raise when it fails or stands still."""
    moved, silent = -1, 0
    while silent < SILENT_ROUNDS_MAX:
        event = await event_or_pause(moves, LOOK_EVERY_S)
        status = "" if event is None else str(dict(event["data"]).get("status"))  # type: ignore[call-overload]
        if status in _ENDS:
            return await _verdict(qmp, status)
        if event is None:
            described = await qmp.execute("query-migrate", timeout_s=ANSWER_S)
            if described.get("status") in _ENDS:
                return await _verdict(qmp, str(described["status"]))
            before, moved = moved, described.get("ram", {}).get("transferred", 0)
            silent = silent + 1 if moved == before else 0
    raise HypervisorFailed(f"QEMU moved no byte of its guest for {SILENT_ROUNDS_MAX * LOOK_EVERY_S:g} s")


async def _verdict(qmp: Qmp, status: str) -> None:
    if status == "completed":
        return
    described: dict[str, Any] = await qmp.execute("query-migrate")
    raise HypervisorFailed(f"QEMU could not move its guest: {described.get('error-desc', status)}")


async def prepare_move(qmp: Qmp, capabilities: Sequence[str], parameters: Mapping[str, Any]) -> None:
    """Set all that decides how a machine travels, so that nothing of an earlier migration is left."""
    await set_capabilities(qmp, capabilities)
    await qmp.execute("migrate-set-parameters", dict(parameters))


async def _prepare(qmp: Qmp, capabilities: Sequence[str], parameters: Mapping[str, int] = _NONE) -> None:
    await set_capabilities(qmp, capabilities)
    common = {"multifd-channels": CHANNELS, "max-bandwidth": BYTES_PER_S_MAX, "tls-creds": ""}
    await qmp.execute("migrate-set-parameters", {**common, **parameters})


async def _begin(qmp: Qmp, command: str, path: str) -> None:
    await qmp.execute_when_ready(command, {"uri": f"file:{path}"})
