"""The VM engine of this host, made from the settings."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from ipaddress import IPv4Network
from pathlib import Path

import structlog

from sandfleet.adapters.fault_points import FaultPoints
from sandfleet.adapters.guest.virtio_guest import VirtioGuest
from sandfleet.adapters.network.namespaces import NamespaceNetwork
from sandfleet.adapters.network.plan import machine_count
from sandfleet.adapters.qemu.config import HypervisorConfig, ImageFiles
from sandfleet.adapters.qemu.host_claim import HostClaim, claimed
from sandfleet.adapters.qemu.hypervisor import QemuHypervisor
from sandfleet.adapters.qemu.template import DEFAULT_KERNEL_ARGUMENTS, MITIGATED_KERNEL_ARGUMENTS
from sandfleet.images.errors import ImageDamaged
from sandfleet.images.installed import InstalledImage, list_images
from sandfleet.model.errors import HypervisorFailed
from sandfleet.model.resources import MEMORY_BLOCK_MIB
from sandfleet.ports.guest import Guest
from sandfleet.worker.settings import WorkerSettings

log = structlog.get_logger("sandfleet.worker")
MACHINES_MAX = 1024
"""Machines of one worker at a time, as far as its network range has addresses for them."""


def engine(settings: WorkerSettings, *, faults: FaultPoints | None = None) -> QemuHypervisor:
    """Return the engine; nothing is started or probed yet."""
    config = _config(settings)
    hypervisor = QemuHypervisor(
        config,
        guests=_open_guest,
        late_guests=VirtioGuest,
        network=NamespaceNetwork(tag=config.tag, address_range=IPv4Network(settings.network_range)),
        images=lambda: current_images(settings.images_dir, mitigations=settings.guest_mitigations),
        faults=faults,
    )
    for sentence in hypervisor.degraded:
        log.warning("host_degraded", reason=sentence)
    return hypervisor


def host_claim(settings: WorkerSettings) -> AbstractContextManager[None]:
    """Return the hold on what this worker alone has of the host; entering refuses what another has."""
    config = _config(settings)
    return claimed(
        HostClaim(
            data_dir=str(config.data_dir.resolve()),
            network_range=settings.network_range,
            uid_first=config.uid_first,
            uid_count=config.machines_max,
        )
    )


def _config(settings: WorkerSettings) -> HypervisorConfig:
    return HypervisorConfig(
        data_dir=settings.data_dir,
        templates_dir=settings.templates_dir,
        memory_base_mib=settings.memory_base_mib,
        memory_default_mib=settings.memory_default_mib,
        memory_max_mib=settings.memory_max_mib,
        memory_block_mib=MEMORY_BLOCK_MIB,
        machines_max=min(MACHINES_MAX, machine_count(IPv4Network(settings.network_range))),
        uid_first=settings.uid_first,
    )


async def _open_guest(socket: Path) -> Guest:
    guest = VirtioGuest(socket)
    try:
        await guest.ping()
    except BaseException:
        await guest.close()
        raise
    return guest


def current_images(images_dir: Path, *, mitigations: bool = False) -> Sequence[ImageFiles]:
    """Return the current image of each name: what new templates are made from."""
    try:
        installed = list_images(images_dir)
    except ImageDamaged as error:
        raise HypervisorFailed(str(error)) from error
    arguments = MITIGATED_KERNEL_ARGUMENTS if mitigations else DEFAULT_KERNEL_ARGUMENTS
    return [_files(image, kernel_arguments=arguments) for image in installed if image.is_current]


def _files(image: InstalledImage, *, kernel_arguments: str) -> ImageFiles:
    return ImageFiles(
        name=image.name,
        digest=image.digest,
        kernel=image.kernel,
        initrd=image.initrd,
        root_disk=image.root_disk,
        data_disk=image.data_disk,
        kernel_arguments=kernel_arguments,
    )
