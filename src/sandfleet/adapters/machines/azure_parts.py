"""Network cards, addresses and disks of a fleet in one resource group.

# Facts
A card names its machine, a disk who manages it, an address the card or gateway that uses it. None goes
while it is held; the card of a machine that was refused or has just gone stays reserved for it for three
minutes.
Only disks tell their age.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from sandfleet.adapters.machines.azure_config import AzureClients
from sandfleet.adapters.machines.azure_errors import code_of
from sandfleet.adapters.machines.tags import FLEET_TAG, LAUNCH_TAG
from sandfleet.model.launch import LaunchId
from sandfleet.model.machine import MachinePart, PartKind

_HELD = frozenset(
    {
        "NicInUse",
        "NicReservedForAnotherVm",
        "NicInUseWithPrivateEndpoint",
        "PublicIPAddressCannotBeDeleted",
        "PublicIPAddressInUse",
        "InUsePublicIpAddressCannotBeDeleted",
        "DiskInUse",
    }
)
_CONFLICT = 409
Found = Mapping[str, Any]


class AzureParts:
    """Those of one fleet."""

    def __init__(self, clients: AzureClients, *, fleet: str, resource_group: str) -> None:
        self._fleet, self._group = fleet, resource_group
        self._operations: Mapping[PartKind, Any] = {
            PartKind.NETWORK_CARD: clients.network.network_interfaces,
            PartKind.ADDRESS: clients.network.public_ip_addresses,
            PartKind.DISK: clients.compute.disks,
        }

    def loose(self) -> Sequence[MachinePart]:
        """Return those that nothing holds, by kind and id."""
        found = [
            _part(kind, one)
            for kind in self._operations
            for one in self._listed(kind)
            if self._is_own(one) and not _is_held(kind, one)
        ]
        return sorted(found, key=lambda one: (one.kind, one.id))

    def find(self, kind: PartKind, name: str) -> Found | None:
        """Return one, if it is there and the fleet's."""
        try:
            found: Found = self._operations[kind].get(self._group, name).as_dict()
        except ResourceNotFoundError:
            return None
        return found if self._is_own(found) else None

    def make(self, kind: PartKind, name: str, body: Mapping[str, Any]) -> str:
        """Begin to make one; return its id."""
        begun = self._operations[kind].begin_create_or_update(self._group, name, body, polling=False)
        return str(begun.result().as_dict()["id"])

    def remove(self, kind: PartKind, name: str) -> bool:
        """Ask for its end if it is the fleet's and nothing holds it; true if there is none such."""
        found = self.find(kind, name)
        if found is None:
            return True
        if _is_held(kind, found) or found.get("properties", {}).get("provisioningState") == "Deleting":
            return False
        try:
            self._operations[kind].begin_delete(self._group, name, polling=False)
        except HttpResponseError as error:
            if error.status_code != _CONFLICT and code_of(error) not in _HELD:
                raise
        return False

    def _listed(self, kind: PartKind) -> Iterator[Found]:
        operations = self._operations[kind]
        listing = operations.list_by_resource_group if kind is PartKind.DISK else operations.list
        for one in listing(self._group):
            yield one.as_dict()

    def _is_own(self, found: Found) -> bool:
        return bool((found.get("tags") or {}).get(FLEET_TAG) == self._fleet)


def _is_held(kind: PartKind, found: Found) -> bool:
    properties = found.get("properties", {})
    if kind is PartKind.DISK:
        return bool(found.get("managedBy")) or properties.get("diskState", "Unattached") != "Unattached"
    holders = ("virtualMachine", "privateEndpoint", "ipConfiguration", "natGateway")
    return any(properties.get(holder) for holder in holders)


def _part(kind: PartKind, found: Found) -> MachinePart:
    launch_id = (found.get("tags") or {}).get(LAUNCH_TAG)
    made_at = found.get("properties", {}).get("timeCreated")
    return MachinePart(
        kind,
        str(found["name"]),
        None if launch_id is None else LaunchId(launch_id),
        None if made_at is None else datetime.fromisoformat(made_at),
    )
