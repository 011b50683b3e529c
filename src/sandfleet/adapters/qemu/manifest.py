"""What is written beside a machine so that any later process knows what it is and whose.

Rule 1: the manifest is there before anything else of the machine, and goes last.
Rule 2: a manifest that says `starting` belongs to nobody: whoever finds it after the
death of its maker removes the machine.
Rule 3: a process is its pid, its start time and the host's boot: a reused pid is
somebody else.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from sandfleet.model.errors import HypervisorFailed
from sandfleet.ports.hypervisor import MachineFacts, MachineOrder
from sandfleet.wire.qemu_command import MachineShape

MANIFEST_FILE = "manifest.json"
FORMAT = 1
STARTING = "starting"
READY = "ready"
ARRIVING = "arriving"
"""Another host sends it here; until that is decided nobody removes it."""
OWNED = frozenset({READY, ARRIVING})
MANIFEST_SIZE_MAX = 1 << 20


class ProcessIdentity(msgspec.Struct, frozen=True):
    """One process of one boot of this host."""

    pid: int
    started_ticks: int
    boot_id: str


class DiskChain(msgspec.Struct, frozen=True, kw_only=True):
    """A disk as its QEMU has it: own layers newest first (files of the machine), then what backs them all.

    `nodes` are the block nodes of `layers`; `base_node` is that of the first backing.
    """

    layers: list[str]
    nodes: list[str]
    base_node: str
    backings: list[str]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One machine of this host."""

    machine_id: str
    slot: int
    uid: int
    template: str
    template_version: str
    memory_mib: int
    cpu_count: int
    disk_mib: int
    network_enabled: bool
    shape: MachineShape
    cpu_percent: int | None = None
    """CPU limit in percent of one core; None is all of the vCPUs."""
    state: str = STARTING
    owner: str | None = None
    epoch: int = 0
    process: ProcessIdentity | None = None
    restart_id: str = ""
    """The last restart that came to its end."""
    image_digest: str = ""
    qemu_version: str = ""
    host_cpu: str = ""
    root: DiskChain | None = None
    data: DiskChain | None = None
    move_id: str = ""
    """The move by which it comes (`arriving`) or goes (`ready`)."""
    landing_ports: list[int] = []
    landing_host: str = ""
    landing_channels: int = 0
    may_post_copy: bool = False
    format: int = FORMAT

    def facts(self) -> MachineFacts:
        """Return the manifest as the worker sees it."""
        order = MachineOrder(
            template=self.template,
            memory_mib=self.memory_mib,
            cpu_count=self.cpu_count,
            disk_mib=self.disk_mib,
            network_enabled=self.network_enabled,
        )
        return MachineFacts(
            machine_id=self.machine_id,
            order=order,
            template_version=self.template_version,
            owner=self.owner,
            epoch=self.epoch,
            pid=0 if self.process is None else self.process.pid,
            cpu_percent=self.cpu_percent,
            arriving=self.move_id if self.state == ARRIVING else "",
            departing=self.move_id if self.state == READY else "",
            restart_id=self.restart_id,
        )


def write_manifest(directory: Path, manifest: Manifest, *, durable: bool) -> None:
    """Replace the manifest of `directory` in one step; with `durable` it survives a power cut."""
    write_atomically(directory / MANIFEST_FILE, msgspec.json.encode(manifest), durable=durable)


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest of `directory`; `FileNotFoundError` when there is none."""
    path = directory / MANIFEST_FILE
    if path.stat().st_size > MANIFEST_SIZE_MAX:
        raise HypervisorFailed(f"{path} is larger than any manifest")
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except msgspec.DecodeError as error:
        raise HypervisorFailed(f"{path} is no manifest: {error}") from error
    if manifest.format != FORMAT:
        raise HypervisorFailed(f"{path} has format {manifest.format}, this version reads {FORMAT}")
    return manifest


def write_atomically(path: Path, content: bytes, *, durable: bool) -> None:
    """Write `path` so that a reader sees the old or the new content, never a part."""
    fresh = path.with_name(path.name + ".new")
    with open(fresh, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(content)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    fresh.replace(path)
    if durable:
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
