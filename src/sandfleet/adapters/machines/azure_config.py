"""What an Azure pool is told: where, for whom, what is bought; and the clients that speak with Azure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from azure.identity import ManagedIdentityCredential
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient

from sandfleet.model.launch import MachineSize

PUBLIC_CLOUD = "https://management.azure.com"
CONNECT_S, READ_S = 5, 15


@dataclass(frozen=True, slots=True)
class AzureSize:
    """What is bought for one size."""

    size: MachineSize
    vm_size: str
    is_spot: bool = False
    zone: str | None = None
    disk_gib: int | None = None
    """The OS disk's; the image's own when it is not said."""
    disk_type: str = "Premium_LRS"


@dataclass(frozen=True, slots=True)
class AzureImages:
    """One image definition of a Compute Gallery: its versions are the worker's."""

    gallery: str
    image: str
    resource_group: str


@dataclass(frozen=True, slots=True)
class AzureConfig:
    """Where, and for whom."""

    fleet: str
    subscription_id: str
    resource_group: str
    location: str
    subnet_id: str
    images: AzureImages
    sizes: Sequence[AzureSize]
    ssh_public_key: str
    """Azure begins no Linux machine without one; nobody has to have its other half."""
    admin_user: str = "azureuser"
    custom_data: str = ""
    """What cloud-init is given; it can be read on the machine, so no secrets."""
    worker_identity_id: str | None = None
    """The identity with which the worker reads its secrets."""
    has_address: bool = False
    """Whether each machine has a public address of its own."""
    poll_s: float = 5.0
    """A machine that is to end is looked at so often at most."""


@dataclass(frozen=True, slots=True)
class AzureClients:
    """One for each of Azure's services."""

    compute: Any
    network: Any


def managed_identity(client_id: str | None) -> Any:
    """Return the credential of an identity of this machine, whose service is asked once as well."""
    bounds = {"retry_total": 0, "connection_timeout": CONNECT_S, "read_timeout": READ_S}
    return ManagedIdentityCredential(client_id=client_id, **bounds)


def open_clients(
    subscription_id: str,
    *,
    client_id: str | None = None,
    credential: Any = None,
    endpoint: str = PUBLIC_CLOUD,
    authentication_policy: Any = None,
) -> AzureClients:
    """Return clients that try each call once: who asks again is the fleet, with its own patience.

    Without a credential it is an identity of the machine that this runs on: that of `client_id`, or the
    only one.
    """
    options = {
        "credential": credential or managed_identity(client_id),
        "subscription_id": subscription_id,
        "base_url": endpoint,
        "credential_scopes": [f"{endpoint.rstrip('/')}/.default"],
        "retry_total": 0,
        "connection_timeout": CONNECT_S,
        "read_timeout": READ_S,
        **({} if authentication_policy is None else {"authentication_policy": authentication_policy}),
    }
    return AzureClients(ComputeManagementClient(**options), NetworkManagementClient(**options))
