"""The disks of a machine that moves: copied to the target while the guest writes, and every write to both.

Facts that decide the form:

- Only a disk's newest layer is copied, so its own layers are made one before.
- A write of the guest is done when both sides have it: a target that stalls, stalls the guest. So what
  stalls is torn off.
- A copy that is in step and is then cancelled ends as completed, its target written out, the source
  as it was.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from sandfleet.adapters.qemu.chains import chain_of
from sandfleet.adapters.qemu.manifest import Manifest
from sandfleet.adapters.qemu.move_keys import CREDENTIALS
from sandfleet.adapters.qemu.qmp import Qmp, QmpRefused, event_or_pause
from sandfleet.model.errors import HypervisorFailed
from sandfleet.wire.move_manifest import Landing
from sandfleet.wire.qemu_command import DATA_DRIVE, ROOT_DRIVE

DRIVES = (ROOT_DRIVE, DATA_DRIVE)
EVENTS = ("BLOCK_JOB_READY", "BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED", "BLOCK_JOB_ERROR")
POLL_S = 0.02
FINISH_ROUNDS_MAX = 500
"""What is in flight when the guest stands still is little, and it stands still for it."""


def job_name(drive: str) -> str:
    """Return the name of the copying of one disk; its target is the node of the same name."""
    return f"move-{drive}"


async def begin(qmp: Qmp, manifest: Manifest, landing: Landing, *, bytes_per_s_max: int) -> None:
    """Begin to copy both disks; the limit holds for both together, and not for what the guest writes."""
    for drive in DRIVES:
        await qmp.execute(
            "blockdev-add",
            {
                "driver": "nbd",
                "node-name": job_name(drive),
                "server": {"type": "inet", "host": landing.host, "port": str(landing.disk_port)},
                "export": drive,
                "tls-creds": CREDENTIALS,
            },
        )
        await qmp.execute(
            "blockdev-mirror",
            {
                "job-id": job_name(drive),
                "device": chain_of(manifest, drive).nodes[0],
                "target": job_name(drive),
                "sync": "top",
                "copy-mode": "write-blocking",
                "speed": bytes_per_s_max // len(DRIVES),
                "on-source-error": "report",
                "on-target-error": "report",
            },
        )


async def jobs(qmp: Qmp) -> dict[str, dict[str, Any]]:
    """Return the copies under way by name; raise when one has failed."""
    found = {str(job["device"]): job for job in await qmp.execute("query-block-jobs")}
    missing = [drive for drive in DRIVES if job_name(drive) not in found]
    if missing:
        raise HypervisorFailed(f"the copy of {missing[0]} has ended: the target does not take it")
    return found


async def finish(qmp: Qmp) -> None:
    """Return when both targets have everything, written out, and are let go of. The guest stands still."""
    outcome: dict[str, str] = {}
    names = {job_name(drive) for drive in DRIVES}
    with qmp.listen(*EVENTS) as ends:
        for name in names:
            await qmp.execute("block-job-cancel", {"device": name})
        for _ in range(FINISH_ROUNDS_MAX):
            if set(outcome) == names:
                break
            event = await event_or_pause(ends, POLL_S)
            if event is None or event["event"] == "BLOCK_JOB_READY":
                continue
            data: Any = event["data"]
            if data.get("device") in names:
                is_done = event["event"] == "BLOCK_JOB_COMPLETED" and not data.get("error")
                outcome[data["device"]] = "" if is_done else str(data.get("error", "cancelled"))
        else:
            raise HypervisorFailed("the target did not take the last writes in time")
    failed = [said for said in outcome.values() if said]
    if failed:
        raise HypervisorFailed(f"a disk could not be copied: {failed[0]}")
    for name in names:
        await qmp.execute("blockdev-del", {"node-name": name})


async def tear_off(qmp: Qmp) -> None:
    """End the copies whatever their state, and let go of the targets. Idempotent."""
    for drive in DRIVES:  # both first: QEMU stands still while it waits for either
        with suppress(QmpRefused):  # there is no such node: nothing to tear off
            instances = [{"type": "block-node", "node-name": job_name(drive)}]
            await qmp.execute("yank", {"instances": instances}, is_urgent=True)
    for drive in DRIVES:
        with suppress(QmpRefused):
            await qmp.execute("block-job-cancel", {"device": job_name(drive), "force": True})
    with qmp.listen(*EVENTS) as ends:
        for _ in range(FINISH_ROUNDS_MAX):
            running = {str(job["device"]) for job in await qmp.execute("query-block-jobs")}
            if not running & {job_name(drive) for drive in DRIVES}:
                break
            await event_or_pause(ends, POLL_S)
        else:
            raise HypervisorFailed("a copy of a disk cannot be ended")
    for drive in DRIVES:
        with suppress(QmpRefused):
            await qmp.execute("blockdev-del", {"node-name": job_name(drive)})
