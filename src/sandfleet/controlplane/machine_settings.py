"""Settings of the fleet's machines: the pools that they come from, and how many there shall be.

Tables of the server's settings: `[capacity]` and, one for each pool, `[[pools]]` with its `kind`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sandfleet.model.launch import MachineSize
from sandfleet.model.resources import Resources

Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]


class _Table(BaseModel):
    """A table in which every key is known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SizeSettings(_Table):
    """One size of machine, as what a worker on it can promise."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Its name in the pool; `<kind>/<name>` in all pools."""
    memory_mib: PositiveCount
    """Memory that a worker on it may promise."""
    cpu_count: PositiveCount
    """vCPUs that it has."""
    disk_mib: PositiveCount
    """Disk that it has."""
    region: str | None = None
    """Region of its workers; without it that of the server."""
    price_per_hour: Annotated[float, Field(ge=0)] = 0.0
    """What an hour costs, in any unit that is the same for all sizes."""
    boot_s: Seconds = 120.0
    """From the launch to the worker's first heartbeat, until it has been measured."""
    accelerator: str = ""
    """`kvm` or `tcg`; without it, that of the workers that there are."""
    cpu_model: str = ""
    """Its processor, where sandboxes are bound to one; without it, that of the workers that there are."""

    def machine_size(self, pool: str, *, region: str) -> MachineSize:
        """Return it as the planners know it."""
        return MachineSize(
            pool=pool,
            name=self.name,
            resources=Resources(self.memory_mib, self.cpu_count, self.disk_mib),
            region=self.region or region,
            price_per_hour=self.price_per_hour,
            boot_s=self.boot_s,
            accelerator=self.accelerator,
            cpu_model=self.cpu_model,
        )


class Ec2SizeSettings(SizeSettings):
    """One size of machine, and what is bought for it."""

    instance_type: str
    """Amazon's name of it."""
    is_spot: bool = False
    """Whether it is bought at the spot price, and may be taken away with two minutes' notice."""


class AzureSizeSettings(SizeSettings):
    """One size of machine, and what is bought for it."""

    vm_size: str
    """Azure's name of it."""
    is_spot: bool = False
    """Whether it is bought at the spot price; it is deleted when Azure takes it away."""
    zone: str | None = None
    """Availability zone; without it, Azure chooses."""
    disk_gib: PositiveCount | None = None
    """Its disk; without it, as large as the image's."""
    disk_type: str = "Premium_LRS"
    """Azure's name of the disk's type."""


class StaticPoolSettings(_Table):
    """Hosts that somebody owns and puts up by hand."""

    kind: Literal["static"]
    """`static`."""

    @property
    def size_names(self) -> tuple[str, ...]:
        """The names of its sizes."""
        return ()


class LocalPoolSettings(_Table):
    """Workers of this machine, which the supervisor of `sandfleet up` starts and ends."""

    kind: Literal["local"]
    """`local`."""
    directory: Path
    """Where the supervisor looks for orders: `machines` of its data directory."""
    machines_max: PositiveCount
    """Most machines at a time."""
    memory_max_mib: PositiveCount
    """Memory that all of them together may have."""
    sizes: Annotated[tuple[SizeSettings, ...], Field(min_length=1)]
    """In the order of preference."""

    @property
    def size_names(self) -> tuple[str, ...]:
        """The names of its sizes."""
        return tuple(size.name for size in self.sizes)


class Ec2PoolSettings(_Table):
    """Instances of one launch template in one region; needs the extra `sandfleet[ec2]`."""

    kind: Literal["ec2"]
    """`ec2`."""
    fleet: Annotated[str, Field(min_length=1)]
    """The value of the tag `sandfleet:fleet`: no other fleet of the account may have it."""
    aws_region: Annotated[str, Field(min_length=1)]
    """Amazon's region. Credentials come from where Amazon's own tools take them."""
    launch_template: Annotated[str, Field(min_length=1)]
    """The template's id (`lt-…`) or name: network, role and user data of every machine."""
    sizes: Annotated[tuple[Ec2SizeSettings, ...], Field(min_length=1)]
    """In the order of preference."""
    endpoint_url: str | None = None
    """Where EC2 is asked, if not at Amazon."""

    @property
    def size_names(self) -> tuple[str, ...]:
        """The names of its sizes."""
        return tuple(size.name for size in self.sizes)


class AzurePoolSettings(_Table):
    """Virtual machines in one resource group of Azure; needs the extra `sandfleet[azure]`."""

    kind: Literal["azure"]
    """`azure`."""
    fleet: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=30)]
    """First part of all names, and the tag `sandfleet:fleet`: no other fleet of the group may have it."""
    subscription_id: Annotated[str, Field(min_length=1)]
    """The subscription that pays."""
    resource_group: Annotated[str, Field(min_length=1)]
    """Where machines, disks, network cards and addresses are made."""
    location: Annotated[str, Field(min_length=1)]
    """Azure's region."""
    subnet_id: Annotated[str, Field(min_length=1)]
    """The whole id of the subnet of all machines."""
    gallery: Annotated[str, Field(min_length=1)]
    """The Compute Gallery of the worker's images."""
    gallery_resource_group: str | None = None
    """Its resource group, if it is another one."""
    image: Annotated[str, Field(min_length=1)]
    """The image definition. Its versions are found by their name, or by their tag `sandfleet:version`."""
    ssh_public_key: Annotated[str, Field(min_length=1)]
    """Azure begins no Linux machine without one; its other half may be thrown away."""
    admin_user: str = "azureuser"
    """The user that this key is for."""
    custom_data: str = ""
    """What cloud-init is given. It can be read on the machine, so no secrets."""
    worker_identity_id: str | None = None
    """The whole id of the user-assigned identity with which a worker reads its secrets."""
    client_id: str | None = None
    """The server's own user-assigned identity; without it, the one of its machine."""
    has_address: bool = False
    """Whether each machine has a public address."""
    endpoint_url: str | None = None
    """Where Azure is asked, if not in its public cloud."""
    sizes: Annotated[tuple[AzureSizeSettings, ...], Field(min_length=1)]
    """In the order of preference."""

    @property
    def size_names(self) -> tuple[str, ...]:
        """The names of its sizes."""
        return tuple(size.name for size in self.sizes)


PoolSettings = Annotated[
    StaticPoolSettings | LocalPoolSettings | Ec2PoolSettings | AzurePoolSettings, Field(discriminator="kind")
]


class CapacitySettings(_Table):
    """How many workers there shall be, and how fast that may change."""

    workers_min: Count = 1
    """Fewest workers, whatever the load."""
    workers_max: PositiveCount = 100
    """Most workers; a roll-out may have some more for a while."""
    idle_reserve: Count = 1
    """Workers that stand empty, so that a burst need not wait for a machine's boot."""
    machines_max: dict[str, PositiveCount] = Field(default_factory=dict)
    """Most machines of a pool (`ec2`) or of one size (`ec2/large`); others have no limit of their own."""
    launches_at_once: PositiveCount = 10
    """Most machines that boot at a time."""
    drains_at_once: PositiveCount = 2
    """Most workers that are emptied at a time."""
    launch_pause_s: Seconds = 10.0
    """Between launches for which nobody waits."""
    drain_pause_s: Seconds = 120.0
    """Between the last launch or drain and the next drain."""
    calm_s: Seconds = 720.0
    """The fleet shrinks only so far that the peak of this time would still fit."""
    trend_s: Seconds = 300.0
    """From so much of the past is the demand of the near future foreseen."""
    age_s_min: Seconds = 600.0
    """A worker is not emptied before it has been there for so long."""
    launch_s_max: Seconds = 900.0
    """A launch whose worker has not joined by then is given up, and its machine ended."""
    worth_min: Annotated[float, Field(ge=0)] = 1.2
    """A worker is emptied if its share of the price is this many times its share of what is disturbed."""
    returned_pause_s: Seconds = 1800.0
    """For how long a worker whose drain was called off is not chosen again."""

    @model_validator(mode="after")
    def _bounds_hold(self) -> CapacitySettings:
        if self.workers_min > self.workers_max:
            raise ValueError(f"workers_min is {self.workers_min}, workers_max {self.workers_max}")
        return self


def check_machines(pools: tuple[PoolSettings, ...], capacity: CapacitySettings | None) -> None:
    """Raise ValueError for pools that cannot be told apart, and for limits of what there is not."""
    doubled = [kind for kind, count in Counter(pool.kind for pool in pools).items() if count > 1]
    if doubled:
        raise ValueError(f"pools: {', '.join(doubled)} is there more than once")
    keys = {f"{pool.kind}/{name}" for pool in pools for name in pool.size_names}
    if len(keys) < sum(len(pool.size_names) for pool in pools):
        raise ValueError("pools: two sizes of one pool have the same name")
    if capacity is None:
        return
    if not keys:
        raise ValueError("capacity: there is no pool with sizes that machines could come from")
    unknown = sorted(set(capacity.machines_max) - keys - {pool.kind for pool in pools})
    if unknown:
        raise ValueError(f"capacity.machines_max: there is no {', '.join(unknown)}")
