"""The names of a machine's resources, and what Azure is asked to make of them, in its REST form."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sandfleet.adapters.machines.azure_config import AzureConfig, AzureSize
from sandfleet.adapters.machines.tags import FLEET_TAG, LAUNCH_TAG, SIZE_TAG, VERSION_TAG
from sandfleet.model.errors import MachineRefused
from sandfleet.model.launch import LaunchFailure, LaunchId
from sandfleet.model.machine import MachineOrder, PartKind

Body = Mapping[str, Any]
_WORD = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_VM_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*--[a-z0-9]+(-[a-z0-9]+)*")
_LENGTH_MAX = 60


@dataclass(frozen=True, slots=True)
class Names:
    """Of the machine of one launch, and of its parts."""

    machine: str

    @property
    def parts(self) -> Mapping[PartKind, str]:
        """In the order in which they can be removed: a card holds its address."""
        return {
            PartKind.NETWORK_CARD: f"{self.machine}-nic",
            PartKind.ADDRESS: f"{self.machine}-ip",
            PartKind.DISK: f"{self.machine}-os",
        }


def names_of(fleet: str, launch_id: LaunchId) -> Names:
    """Return names that no other fleet or launch has: two dashes stand nowhere else."""
    name = f"{fleet}--{launch_id}"
    if not (_WORD.fullmatch(fleet) and _WORD.fullmatch(launch_id)) or len(name) > _LENGTH_MAX:
        raise MachineRefused(f"{name} cannot be a machine's name", failure=LaunchFailure.BROKEN)
    return Names(name)


def is_name(machine_id: str) -> bool:
    """Whether a machine can have that name at all."""
    return len(machine_id) <= _LENGTH_MAX and _VM_NAME.fullmatch(machine_id) is not None


def tags_for(config: AzureConfig, order: MachineOrder) -> Mapping[str, str]:
    """Return what machine, card, address and disk carry; Azure gives the disk those of its machine."""
    return {
        FLEET_TAG: config.fleet,
        LAUNCH_TAG: order.launch_id,
        SIZE_TAG: order.size,
        VERSION_TAG: order.version,
    }


def address(config: AzureConfig, wanted: AzureSize, tags: Mapping[str, str]) -> Body:
    """Return a public address."""
    return {
        "location": config.location,
        "tags": tags,
        "sku": {"name": "Standard"},
        "properties": {"publicIPAllocationMethod": "Static"},
        **_zones(wanted),
    }


def card(config: AzureConfig, tags: Mapping[str, str], *, address_id: str | None) -> Body:
    """Return a network card in the fleet's subnet."""
    public = {"publicIPAddress": {"id": address_id, "properties": {"deleteOption": "Delete"}}}
    return {
        "location": config.location,
        "tags": tags,
        "properties": {
            "ipConfigurations": [
                {
                    "name": "primary",
                    "properties": {
                        "subnet": {"id": config.subnet_id},
                        "privateIPAllocationMethod": "Dynamic",
                        **({} if address_id is None else public),
                    },
                }
            ]
        },
    }


def machine(
    config: AzureConfig, wanted: AzureSize, names: Names, tags: Mapping[str, str], *, ids: Mapping[str, str]
) -> Body:
    """Return a machine with its disk, whose parts go with it. `ids`: of its card and of its image."""
    identity = config.worker_identity_id
    assigned = {"identity": {"type": "UserAssigned", "userAssignedIdentities": {identity: {}}}}
    spot = {"priority": "Spot", "evictionPolicy": "Delete", "billingProfile": {"maxPrice": -1}}
    primary = {"id": ids["card"], "properties": {"primary": True, "deleteOption": "Delete"}}
    return {
        "location": config.location,
        "tags": tags,
        **_zones(wanted),
        **({} if identity is None else assigned),
        "properties": {
            "hardwareProfile": {"vmSize": wanted.vm_size},
            "storageProfile": {
                "imageReference": {"id": ids["image"]},
                "osDisk": _disk(wanted, names),
            },
            "osProfile": _system(config, names),
            "networkProfile": {"networkInterfaces": [primary]},
            **(spot if wanted.is_spot else {}),
        },
    }


def _disk(wanted: AzureSize, names: Names) -> Body:
    return {
        "name": names.parts[PartKind.DISK],
        "createOption": "FromImage",
        "deleteOption": "Delete",
        "managedDisk": {"storageAccountType": wanted.disk_type},
        **({} if wanted.disk_gib is None else {"diskSizeGB": wanted.disk_gib}),
    }


def _system(config: AzureConfig, names: Names) -> Body:
    given = base64.b64encode(config.custom_data.encode()).decode()
    key = {
        "path": f"/home/{config.admin_user}/.ssh/authorized_keys",
        "keyData": config.ssh_public_key,
    }
    return {
        "computerName": names.machine,
        "adminUsername": config.admin_user,
        "linuxConfiguration": {"disablePasswordAuthentication": True, "ssh": {"publicKeys": [key]}},
        **({"customData": given} if given else {}),
    }


def _zones(wanted: AzureSize) -> Body:
    return {} if wanted.zone is None else {"zones": [wanted.zone]}
