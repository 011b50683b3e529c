"""Capture: a snapshot of a VM that runs on. Part of the sandbox's activity, so no idle end meets it."""

from __future__ import annotations

import structlog

from sandfleet.model.errors import Conflict, GuestDiskFull
from sandfleet.ports.guest import Guest
from sandfleet.ports.snapshots import SavedSnapshot
from sandfleet.wire.worker_messages import CaptureVm, SavedVm
from sandfleet.worker.host import Host
from sandfleet.worker.residents import Resident

log = structlog.get_logger("sandfleet.worker")
DISK_USED_MAX = 0.95
"""A guest whose disk is fuller cannot write out what it holds, nor do anything useful later."""


async def capture_vm(host: Host, sandbox_id: str, order: CaptureVm) -> SavedVm:
    """Return the snapshot; the same id again joins the capture, or finds it done."""
    host.require_adopted()
    done = host.require_snapshots().find(order.snapshot_id)
    if done is not None:
        return saved_vm(done, owner=sandbox_id)
    resident = host.residents.serving(sandbox_id, epoch=order.epoch)
    capturing = host.captures.get(order.snapshot_id)
    if capturing is None:
        capturing = host.background.start(
            _capture(host, resident, order.snapshot_id), name=f"capture {sandbox_id}"
        )
        host.captures[order.snapshot_id] = capturing
    return saved_vm(await capturing.result(), owner=sandbox_id)


async def _capture(host: Host, resident: Resident, snapshot_id: str) -> SavedSnapshot:
    try:
        async with resident.activity() as machine:
            await refuse_full_disk(machine.guest)
            saved = await host.require_snapshots().capture(machine, snapshot_id)
    finally:
        host.captures.pop(snapshot_id, None)
    note("vm_captured", resident, saved)
    return saved


def saved_vm(saved: SavedSnapshot, *, owner: str) -> SavedVm:
    """Return the answer that names a snapshot of `owner`; a name that belongs to another is refused."""
    if saved.manifest.owner != owner:
        raise Conflict(f"snapshot {saved.manifest.snapshot_id} is of another sandbox")
    return SavedVm(
        snapshot_id=saved.manifest.snapshot_id,
        size_bytes=saved.size_bytes,
        manifest=saved.manifest,
        pause_ms=round(saved.pause_s * 1000, 1),
    )


async def refuse_full_disk(guest: Guest) -> None:
    """Raise Conflict `guest_disk_full` when the guest has no room left to write out what it holds."""
    try:
        stats = await guest.stats()
    except GuestDiskFull as error:
        raise Conflict(error.message, code="guest_disk_full") from error
    if stats.disk_total and stats.disk_used >= DISK_USED_MAX * stats.disk_total:
        percent = round(100 * stats.disk_used / stats.disk_total)
        raise Conflict(f"rootfs disk usage {percent}% is too high to be saved", code="guest_disk_full")


def note(event: str, resident: Resident, saved: SavedSnapshot) -> None:
    """Log what was saved, how long the guest stood still for it, and what took that time."""
    log.info(
        event,
        sandbox=resident.sandbox_id,
        epoch=resident.epoch,
        snapshot=saved.manifest.snapshot_id,
        size_bytes=saved.size_bytes,
        pause_ms=round(saved.pause_s * 1000, 1),
        steps_ms=dict(saved.steps_ms),
    )
