"""The VM engine of this host, made from the settings."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network
from pathlib import Path

import structlog

from sandfleet.adapters.guest.virtio_guest import VirtioGuest
from sandfleet.adapters.network.namespaces import NamespaceNetwork
from sandfleet.adapters.qemu.config import HypervisorConfig, ImageFiles
from sandfleet.adapters.qemu.hypervisor import QemuHypervisor
from sandfleet.images.errors import ImageDamaged
from sandfleet.images.installed import InstalledImage, list_images
from sandfleet.model.errors import HypervisorFailed
from sandfleet.ports.guest import Guest
from sandfleet.worker.settings import WorkerSettings

log = structlog.get_logger("sandfleet.worker")


def engine(settings: WorkerSettings) -> QemuHypervisor:
    """Return the engine; nothing is started or probed yet."""
    config = HypervisorConfig(
        data_dir=settings.data_dir,
        templates_dir=settings.templates_dir,
        memory_base_mib=settings.memory_base_mib,
        memory_max_mib=settings.memory_max_mib,
        uid_first=settings.uid_first,
    )
    hypervisor = QemuHypervisor(
        config,
        guests=_open_guest,
        network=NamespaceNetwork(tag=config.tag, address_range=IPv4Network(settings.network_range)),
        images=lambda: current_images(settings.images_dir),
    )
    for sentence in hypervisor.degraded:
        log.warning("host_degraded", reason=sentence)
    return hypervisor


async def _open_guest(socket: Path) -> Guest:
    guest = VirtioGuest(socket)
    try:
        await guest.ping()
    except BaseException:
        await guest.close()
        raise
    return guest


def current_images(images_dir: Path) -> Sequence[ImageFiles]:
    """Return the current image of each name: what new templates are made from."""
    try:
        installed = list_images(images_dir)
    except ImageDamaged as error:
        raise HypervisorFailed(str(error)) from error
    return [_files(image) for image in installed if image.is_current]


def _files(image: InstalledImage) -> ImageFiles:
    return ImageFiles(
        name=image.name,
        digest=image.digest,
        kernel=image.kernel,
        initrd=image.initrd,
        root_disk=image.root_disk,
        data_disk=image.data_disk,
    )
