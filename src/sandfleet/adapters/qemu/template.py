"""A template: the memory, device state and frozen disk overlays of a booted, quiesced machine.

It is named twice: by the digest of all its bytes (its directory, and the version that
is reported), and by the digest of everything it was made from (a link, by which it is
found without being made again).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sandfleet.adapters.qemu.config import ImageFiles
from sandfleet.adapters.qemu.manifest import write_atomically
from sandfleet.adapters.qemu.process import BOOT_ID
from sandfleet.model.errors import HypervisorFailed
from sandfleet.wire.qemu_command import MachineShape

FORMAT = 4
MANIFEST_FILE = "manifest.json"
MEMORY_FILE = "memory"
STATE_FILE = "state"
ROOT_FILE = "root.qcow2"
DATA_FILE = "data.qcow2"
ROOT_EMPTY_FILE = "root-empty.qcow2"
DATA_EMPTY_FILE = "data-empty.qcow2"
VERIFIED_FILE = ".verified"
DIGESTED_FILES = (MEMORY_FILE, STATE_FILE, ROOT_FILE, DATA_FILE)

MITIGATED_KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet panic=-1 swiotlb=noforce tsc=reliable clocksource=tsc maxcpus=1"
)
DEFAULT_KERNEL_ARGUMENTS = f"{MITIGATED_KERNEL_ARGUMENTS} mitigations=off"
"""One vCPU is started, the others wait until a size needs them.
swiotlb would take a third of a small guest's memory when it may grow large.
Mitigations would guard the guest's kernel from a user who is root in it, and cost a
translated guest 30 times as much per system call (41 against 1.4 microseconds): see
docs/decisions/0007."""


class TemplateInputs(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a template is made from: equal inputs make interchangeable templates."""

    image_name: str
    image_digest: str
    qemu_version: str
    host_cpu: str
    kernel_arguments: str
    shape: MachineShape
    memory_mib: int = 0
    """What its guest has when it is saved: the base, and what is plugged. Older formats do not say."""
    format: int = FORMAT

    def key(self) -> str:
        """Return the digest of the inputs."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


class TemplateManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What stands beside a template's files. `backing` are the base disks, by role."""

    version: str
    inputs: TemplateInputs
    files: Mapping[str, str]
    backing: Mapping[str, str]
    data_disk_mib: int
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class Template:
    """One template on this host's disk."""

    directory: Path
    manifest: TemplateManifest

    @property
    def name(self) -> str:
        """Name of the image it was made from."""
        return self.manifest.inputs.image_name

    @property
    def version(self) -> str:
        """Digest of its bytes."""
        return self.manifest.version

    @property
    def shape(self) -> MachineShape:
        """The shape that its clones must have."""
        return self.manifest.inputs.shape

    @property
    def memory_mib(self) -> int:
        """The memory that its clones have from the first."""
        return self.manifest.inputs.memory_mib

    def file(self, name: str) -> Path:
        """Return the path of one of its files."""
        return self.directory / name

    @property
    def data_disk_mib(self) -> int:
        """Size of the data disk that its guest knows."""
        return self.manifest.data_disk_mib

    def backing(self, role: str) -> Path:
        """Return the image's disk below `root` or `data`."""
        return Path(self.manifest.backing[role])


def load_template(directory: Path) -> Template:
    """Read a template and check that its bytes are the ones that were published."""
    try:
        content = (directory / MANIFEST_FILE).read_bytes()
        manifest = msgspec.json.decode(content, type=TemplateManifest)
    except (OSError, msgspec.DecodeError) as error:
        raise HypervisorFailed(f"{directory} holds no template: {error}") from error
    if manifest.format != FORMAT:
        raise HypervisorFailed(f"template {directory} has format {manifest.format}, not {FORMAT}")
    _verify(directory, manifest)
    template = Template(directory, manifest)
    absent = [path for path in map(Path, manifest.backing.values()) if not path.is_file()]
    if absent:
        raise HypervisorFailed(f"template {directory} stands on {absent[0]}, which is gone")
    return template


def _verify(directory: Path, manifest: TemplateManifest) -> None:
    """Compare the bytes with the manifest, once per boot of the host: they are read-only and large."""
    marker = directory / VERIFIED_FILE
    seen = _fingerprint(directory)
    try:
        if marker.read_text() == seen:
            return
    except OSError:
        pass  # Not verified since this host has booted.
    if file_digests(directory) != dict(manifest.files):
        raise HypervisorFailed(f"template {directory} was changed after it was published")
    write_atomically(marker, seen.encode(), durable=False)


def _fingerprint(directory: Path) -> str:
    """Return what changes when a file is replaced or written to, and when the host boots."""
    try:
        stats = [(directory / name).stat() for name in DIGESTED_FILES]
    except OSError as error:
        raise HypervisorFailed(f"template file cannot be read: {error}") from error
    boot = BOOT_ID.read_text().strip()
    return "\n".join([boot, *(f"{s.st_ino} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns}" for s in stats)])


def file_digests(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that the version covers."""
    digests: dict[str, str] = {}
    for name in DIGESTED_FILES:
        try:
            with open(directory / name, "rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise HypervisorFailed(f"template file cannot be read: {error}") from error
    return digests


def template_version(inputs: TemplateInputs, files: Mapping[str, str]) -> str:
    """Return the digest that covers all bytes of a template and what it was made from."""
    described = msgspec.json.encode([inputs, dict(files)], order="deterministic")
    return hashlib.sha256(described).hexdigest()


def inputs_of(
    image: ImageFiles, *, shape: MachineShape, memory_mib: int, qemu_version: str, host_cpu: str
) -> TemplateInputs:
    """Return what a template of `image` is made from on this host."""
    return TemplateInputs(
        image_name=image.name,
        image_digest=image.digest,
        qemu_version=qemu_version,
        host_cpu=host_cpu,
        kernel_arguments=image.kernel_arguments or DEFAULT_KERNEL_ARGUMENTS,
        shape=shape,
        memory_mib=memory_mib,
    )
