"""What the VM engine of one host is told, and what it calls things."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandfleet.ports.guest import Guest

GuestFactory = Callable[[Path], Awaitable[Guest]]
"""Opens a session with the agent behind a socket; raises `GuestUnresponsive`."""

TAG_LENGTH = 4
MACHINE_ID_RANDOM_LENGTH = 8

QMP_SOCKET = "qmp.sock"
AGENT_SOCKET = "agent.sock"
ROOT_OVERLAY = "root.qcow2"
DATA_OVERLAY = "data.qcow2"
PID_FILE = "pid"
LOG_FILE = "qemu.log"


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """An installed image: what a template of it is made from."""

    name: str
    digest: str
    kernel: Path
    initrd: Path
    root_disk: Path
    data_disk: Path
    kernel_arguments: str = ""


ImageSource = Callable[[], Sequence[ImageFiles]]


@dataclass(frozen=True, slots=True, kw_only=True)
class HypervisorConfig:
    """Settings of one host's engine. `accelerator` is `auto`, `kvm` or `tcg`; `cpu_model` None chooses.

    Each of `cpu_tiers` is a number of vCPUs that machines can have at most. A vCPU that
    sleeps still costs most of a MiB, so that small machines come from a template with
    few; a template of a larger tier is made when it is first asked for.

    Machines of `memory_default_mib` and more come from a template whose guest has that much
    already; 0 means that all come from one of `memory_base_mib`.
    """

    data_dir: Path
    templates_dir: Path
    resident_dir: Path = Path("/dev/shm/sandfleet-templates")  # noqa: S108 -- memory is its purpose
    """A memory file system; templates' memory is kept there, shared by all fleets of the host."""
    memory_base_mib: int = 512
    memory_default_mib: int = 0
    memory_max_mib: int = 65536
    memory_block_mib: int = 128
    cpu_tiers: Sequence[int] = (4, 16)
    machines_max: int = 1024
    uid_first: int = 210_000
    accelerator: str = "auto"
    cpu_model: str | None = None
    qemu_binary: str = "qemu-system-x86_64"
    image_tool: str = "qemu-img"
    template_build_timeout_s: float = 120.0
    clone_timeout_s: float = 30.0
    load_timeout_s: float = 600.0

    @property
    def tag(self) -> str:
        """Return what the ids of this host's machines begin with: two fleets on one host differ in it."""
        digest = hashlib.sha256(str(self.data_dir.resolve()).encode()).digest()
        return base64.b32encode(digest).decode().lower()[:TAG_LENGTH]

    @property
    def memory_dir(self) -> Path:
        """Return where the memory of this directory of templates is kept."""
        digest = hashlib.sha256(str(self.templates_dir.resolve()).encode()).hexdigest()
        return self.resident_dir / digest[:16]

    @property
    def machines_dir(self) -> Path:
        """Return where machines live."""
        return self.data_dir / "machines"
