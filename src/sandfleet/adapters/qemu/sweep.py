"""Removing what machines of this host left behind that nobody owns.

Rule 1: only what carries our tag is looked at.
Rule 2: what a manifest owns, or an operation of this process holds, stays.
Rule 3: a manifest that still says `starting` after its maker has died owns nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from sandfleet.adapters.qemu.erase import erase
from sandfleet.adapters.qemu.host import Host
from sandfleet.adapters.qemu.manifest import OWNED, read_manifest
from sandfleet.model.errors import HypervisorFailed


async def sweep(host: Host) -> Sequence[str]:
    """Remove every unowned machine and return the ids of those removed."""
    removed: list[str] = []
    for machine_id in await _traces(host):
        if machine_id in host.busy or is_owned(host, machine_id):
            continue
        await erase(host, machine_id, process=None, slot=_slot(host, machine_id))
        removed.append(machine_id)
    return removed


def is_owned(host: Host, machine_id: str) -> bool:
    """Whether a finished manifest stands for this machine. One that cannot be read is left to a person."""
    try:
        return read_manifest(host.directory(machine_id)).state in OWNED
    except FileNotFoundError:
        return False
    except HypervisorFailed:
        return True


async def _traces(host: Host) -> list[str]:
    tag = host.config.tag
    machines = host.config.machines_dir
    directories = [path.name for path in machines.iterdir()] if machines.is_dir() else []
    found = {name for name in directories if name.startswith(tag)}
    found.update(await host.network.attached())
    found.update(host.cgroups.present(tag))
    return sorted(found)


def _slot(host: Host, machine_id: str) -> int | None:
    try:
        return read_manifest(host.directory(machine_id)).slot
    except (FileNotFoundError, HypervisorFailed):
        return None
