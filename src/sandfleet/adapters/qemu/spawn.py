"""From files and limits to a running QEMU: used alike by clones and by the making of templates."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sandfleet.adapters.qemu.cgroups import CgroupLimits
from sandfleet.adapters.qemu.config import AGENT_SOCKET, QMP_SOCKET
from sandfleet.adapters.qemu.host import Host
from sandfleet.adapters.qemu.launch import Descriptors, LaunchOrder, launch
from sandfleet.adapters.qemu.manifest import Manifest, ProcessIdentity
from sandfleet.ports.network import NetworkSeat
from sandfleet.wire.qemu_command import (
    KernelBoot,
    MachineDescriptors,
    MachineShape,
    all_descriptors,
    descriptor_path,
    qemu_arguments,
)

KVM_DEVICE = Path("/dev/kvm")


@dataclass(frozen=True, slots=True)
class KernelFiles:
    """What a machine boots from."""

    kernel: Path
    initrd: Path
    arguments: str


@dataclass(frozen=True, slots=True)
class SpawnRecipe:
    """Files of one machine: each disk is its overlay followed by what backs it.

    With `kernel` the machine boots, and writes memory and state; otherwise it waits to load them.
    Without `memory` the state holds the memory too; with `fills_memory` it does as well, and the
    machine writes it into that file. Without `state` all of it comes from elsewhere, and the machine
    runs when it is told to.
    """

    shape: MachineShape
    memory: Path | None
    state: Path | None
    root: Sequence[Path]
    data: Sequence[Path]
    limits: CgroupLimits
    kernel: KernelFiles | None = None
    fills_memory: bool = False


@dataclass(frozen=True, slots=True)
class Spawned:
    """A QEMU that has been started, and by which path it knows its state file."""

    process: ProcessIdentity
    state_path: str


async def spawn(host: Host, manifest: Manifest, recipe: SpawnRecipe) -> Spawned:
    """Start QEMU for the machine of `manifest`, whose directory and namespace exist."""
    directory = host.directory(manifest.machine_id)
    cgroup_files = host.cgroups.create(manifest.machine_id, recipe.limits)
    with Descriptors() as opened:
        tap = opened.keep(await host.network.create(NetworkSeat(manifest.machine_id, manifest.slot)))
        boot = _open_kernel(opened, recipe.kernel)
        descriptors = _open(opened, recipe, directory, tap)
        arguments = qemu_arguments(
            recipe.shape,
            descriptors,
            name=manifest.machine_id,
            generation_id=str(uuid.uuid4()),
            boot=boot,
            is_held=recipe.state is None,
        )
        order = LaunchOrder(
            directory=directory,
            uid=manifest.uid,
            argv=[host.config.qemu_binary, *arguments],
            descriptors=all_descriptors(descriptors, boot),
            cgroup_files=cgroup_files,
        )
        state_path = "" if descriptors.state_fd is None else descriptor_path(descriptors.state_fd)
        return Spawned(launch(order), state_path)


def _open(opened: Descriptors, recipe: SpawnRecipe, directory: Path, tap: int) -> MachineDescriptors:
    is_booted = recipe.kernel is not None
    writes_memory = is_booted or recipe.fills_memory
    memory_flags = os.O_RDWR if writes_memory else os.O_RDONLY
    state_flags = os.O_WRONLY | os.O_CREAT if is_booted else os.O_RDONLY
    return MachineDescriptors(
        memory_fd=None if recipe.memory is None else opened.open(recipe.memory, memory_flags),
        memory_shared=writes_memory,
        root_fds=_open_disk(opened, recipe.root),
        data_fds=_open_disk(opened, recipe.data),
        tap_fd=tap,
        qmp_fd=opened.listen(directory / QMP_SOCKET),
        agent_fd=opened.listen(directory / AGENT_SOCKET),
        state_fd=None if recipe.state is None else opened.open(recipe.state, state_flags),
        kvm_fd=opened.open(KVM_DEVICE, os.O_RDWR) if recipe.shape.accelerator == "kvm" else None,
    )


def _open_disk(opened: Descriptors, chain: Sequence[Path]) -> list[int]:
    overlay, *backing = chain
    return [opened.open(overlay, os.O_RDWR), *(opened.open(path, os.O_RDONLY) for path in backing)]


def _open_kernel(opened: Descriptors, files: KernelFiles | None) -> KernelBoot | None:
    if files is None:
        return None
    kernel = opened.open(files.kernel, os.O_RDONLY)
    return KernelBoot(kernel, opened.open(files.initrd, os.O_RDONLY), files.arguments)
