"""VMs of one host, as the worker's operations use them (adapters: `adapters/qemu`, `adapters/network`).

`Hypervisor` owns everything that a VM needs on the host (directory, overlays,
namespace, cgroup, QEMU) as one unit called a machine. A machine outlives the
worker process; its manifest on disk says what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from socket import socket
from typing import Protocol

from sandfleet.ports.guest import Guest


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What runs guest code: `kvm` or `tcg`, and why that was chosen."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class TemplateInfo:
    """A template that this host can start: image digest, version digest and shape."""

    name: str
    version: str
    memory_base_mib: int
    memory_block_mib: int


@dataclass(frozen=True, slots=True)
class MachineOrder:
    """The shape of one machine. `owner` is None for a machine of the warm pool."""

    template: str
    memory_mib: int
    cpu_count: int
    disk_mib: int
    network_enabled: bool = True


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What the manifest of a machine says. `owner` and `epoch` are set by `assign`."""

    machine_id: str
    order: MachineOrder
    template_version: str
    owner: str | None
    epoch: int
    pid: int
    cpu_percent: int | None = None
    arriving: str = ""
    """The move by which it comes here, until it runs here."""
    departing: str = ""
    """The move by which it leaves; it stands still, and whether it runs again is not decided here."""
    restart_id: str = ""
    """The last restart that came to its end."""


@dataclass(frozen=True, slots=True)
class MachineUsage:
    """What a machine costs its host beside memory."""

    cpu_s: float
    """Seconds of CPU since its QEMU began."""
    disk_mib: int
    """What its own files take up; what others stand on as well is not counted."""


class Machine(Protocol):
    """One VM. Every method raises `GuestUnresponsive` or `HypervisorFailed` within its own bound."""

    @property
    def facts(self) -> MachineFacts:
        """What the manifest says."""
        ...

    @property
    def guest(self) -> Guest:
        """The session with the agent inside."""
        ...

    async def assign(self, owner: str, *, epoch: int) -> None:
        """Write durably to whom the machine belongs; from then on adoption reports it."""
        ...

    async def note_restart(self, restart_id: str) -> None:
        """Write down that this restart came to its end, so that its repetition is none."""
        ...

    async def is_alive(self) -> bool:
        """Whether the QEMU process of the manifest still runs (pid and start time)."""
        ...

    async def wait_dead(self) -> str:
        """Return the reason when QEMU has ended."""
        ...

    async def resize_memory(self, memory_mib: int) -> int:
        """Ask for a size (base + plugged) and return what the guest reached and its kernel can use."""
        ...

    async def set_cpu_count(self, cpu_count: int) -> None:
        """Have exactly this many vCPUs online in the guest."""
        ...

    async def limit_cpu(self, cpu_percent: int | None) -> None:
        """Bound what the host gives the machine, in percent of one core; None is all of its vCPUs."""
        ...

    async def memory_used_mib(self) -> int:
        """Return what the host has lost to this machine (PSS)."""
        ...

    async def usage(self) -> MachineUsage:
        """Return what else the host has spent on this machine."""
        ...

    async def set_network(self, *, enabled: bool) -> None:
        """Open or close egress; the guest's own address and DNS stay."""
        ...

    async def grow_disk(self, disk_mib: int) -> None:
        """Grow the data disk (host side); the guest grows the file system after it."""
        ...

    async def listen_for_metadata(self) -> socket:
        """Return a listening socket that this guest alone reaches, at the metadata address."""
        ...

    async def destroy(self) -> None:
        """End QEMU and remove everything of the machine from the host. Idempotent."""
        ...


class Hypervisor(Protocol):
    """The host's VMs."""

    @property
    def degraded(self) -> Sequence[str]:
        """What this host cannot offer, as sentences for people."""
        ...

    async def accelerator(self) -> Accelerator:
        """Probe once by booting a guest; cached on disk by kernel, CPU and QEMU version."""
        ...

    async def prepare(self) -> Sequence[TemplateInfo]:
        """Build (or find) the template of each installed image and return them."""
        ...

    async def clone(self, order: MachineOrder) -> Machine:
        """Start a copy-on-write clone of a template and return it with its agent answering.

        Anything that fails on the way leaves nothing behind.
        """
        ...

    async def restart(self, machine: Machine, *, is_clean: bool) -> None:
        """Boot the machine's own disks anew, in its old size; its agent answers, its guest is nobody yet.

        With `is_clean` the guest is asked to end first. A failure leaves the machine dead, its disks kept.
        """
        ...

    async def adopt(self) -> Sequence[Machine]:
        """Return the machines that run on this host from before, sessions re-established.

        Directories whose QEMU is dead are returned too: `is_alive` tells; the caller
        reports them and then destroys them.
        """
        ...

    async def sweep(self) -> Sequence[str]:
        """Remove host resources (namespaces, cgroups, directories) that no manifest owns; name them."""
        ...
