"""Opens the pools and the source of versions that the settings name, and makes the policy of capacity."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sandfleet.adapters.machines.local import LocalMachinePool
from sandfleet.adapters.machines.static import StaticMachinePool
from sandfleet.adapters.machines.version_file import VersionFile
from sandfleet.controlplane.machine_settings import (
    AzurePoolSettings,
    CapacitySettings,
    Ec2PoolSettings,
    LocalPoolSettings,
    PoolSettings,
)
from sandfleet.controlplane.rollout_settings import RolloutSettings
from sandfleet.controlplane.settings import ControlPlaneSettings
from sandfleet.planning.capacity_policy import CapacityPolicy
from sandfleet.ports.clock import Clock
from sandfleet.ports.machine_pool import MachinePool
from sandfleet.ports.version_source import VersionSource

PUBLIC_VAULTS = "vault.azure.net"
"""Where the vaults of Azure's public cloud are."""


def open_pools(settings: ControlPlaneSettings, clock: Clock) -> Mapping[str, MachinePool]:
    """Return the pools by name, in the order of preference."""
    pools = [_open(pool, region=settings.region, clock=clock) for pool in settings.pools]
    return {pool.name: pool for pool in pools}


def capacity_policy(
    settings: ControlPlaneSettings, pools: Mapping[str, MachinePool]
) -> CapacityPolicy | None:
    """Return how many workers there shall be; None where nobody has said so."""
    given: CapacitySettings | None = settings.capacity
    if given is None:
        return None
    sizes = tuple(size for pool in pools.values() for size in pool.sizes)
    return CapacityPolicy(sizes=sizes, placement=settings.placement_policy, **given.model_dump())


def _open(settings: PoolSettings, *, region: str, clock: Clock) -> MachinePool:
    if isinstance(settings, LocalPoolSettings):
        return LocalMachinePool(
            settings.directory,
            sizes=[size.machine_size(settings.kind, region=region) for size in settings.sizes],
            machines_max=settings.machines_max,
            memory_max_mib=settings.memory_max_mib,
            clock=clock,
        )
    if isinstance(settings, Ec2PoolSettings):
        return _ec2(settings, region=region)
    if isinstance(settings, AzurePoolSettings):
        return _azure(settings, region=region, clock=clock)
    return StaticMachinePool()


def _ec2(settings: Ec2PoolSettings, *, region: str) -> MachinePool:
    # Only who has such a pool needs Amazon's library, which is an extra.
    from sandfleet.adapters.machines.ec2 import Ec2Config, Ec2MachinePool, Ec2Size

    sizes = [
        Ec2Size(size.machine_size(settings.kind, region=region), size.instance_type, is_spot=size.is_spot)
        for size in settings.sizes
    ]
    return Ec2MachinePool(
        Ec2Config(
            fleet=settings.fleet,
            region=settings.aws_region,
            launch_template=settings.launch_template,
            sizes=sizes,
            endpoint_url=settings.endpoint_url,
        )
    )


def version_source(settings: RolloutSettings, clock: Clock) -> VersionSource | None:
    """Return where the wanted version is read; None where nobody has named a place."""
    if settings.source is None:
        return None
    place = urlsplit(settings.source)
    if place.scheme == "file":
        return VersionFile(Path(unquote(place.path)))
    if place.scheme == "keyvault":
        from sandfleet.adapters.machines.version_secret import VersionSecret

        host = place.netloc if "." in place.netloc else f"{place.netloc}.{PUBLIC_VAULTS}"
        name, client_id = place.path.removeprefix("/"), settings.source_client_id
        return VersionSecret(f"https://{host}", name, clock=clock, client_id=client_id)
    from sandfleet.adapters.machines.version_parameter import VersionParameter

    return VersionParameter(region=place.netloc, name=unquote(place.path))


def _azure(settings: AzurePoolSettings, *, region: str, clock: Clock) -> MachinePool:
    # The same of Microsoft's.
    from sandfleet.adapters.machines.azure import AzureMachinePool
    from sandfleet.adapters.machines.azure_config import (
        PUBLIC_CLOUD,
        AzureConfig,
        AzureImages,
        AzureSize,
        open_clients,
    )

    bought = {"vm_size", "is_spot", "zone", "disk_gib", "disk_type"}
    sizes = [
        AzureSize(size.machine_size(settings.kind, region=region), **size.model_dump(include=bought))
        for size in settings.sizes
    ]
    group = settings.gallery_resource_group or settings.resource_group
    given = {
        "fleet",
        "subscription_id",
        "resource_group",
        "location",
        "subnet_id",
        "ssh_public_key",
        "admin_user",
        "custom_data",
        "worker_identity_id",
        "has_address",
    }
    config = AzureConfig(
        images=AzureImages(settings.gallery, settings.image, group),
        sizes=sizes,
        **settings.model_dump(include=given),
    )
    clients = open_clients(
        settings.subscription_id, client_id=settings.client_id, endpoint=settings.endpoint_url or PUBLIC_CLOUD
    )
    return AzureMachinePool(config, clients, clock=clock)
