"""Volumes, network interfaces and addresses of a fleet that no instance holds.

# Facts
A volume or an interface that nothing holds is `available`; an address that nothing holds has no association.
Each says no to its end while something holds it, so nothing is lost by asking. Only volumes tell their age.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from sandfleet.adapters.machines.tags import FLEET_TAG, LAUNCH_TAG
from sandfleet.model.launch import LaunchId
from sandfleet.model.machine import MachinePart, PartKind

_GONE = frozenset(
    {"InvalidVolume.NotFound", "InvalidNetworkInterfaceID.NotFound", "InvalidAllocationID.NotFound"}
)
_HELD = frozenset(
    {
        "VolumeInUse",
        "IncorrectState",
        "InvalidNetworkInterface.InUse",
        "InvalidIPAddress.InUse",
        "InvalidNetworkInterfaceID.InUse",
    }
)


@dataclass(frozen=True, slots=True)
class _Kind:
    """How EC2 speaks of one kind."""

    describe: str
    found: str
    id_key: str
    id_filter: str
    remove: str
    id_parameter: str


_KINDS: Mapping[PartKind, _Kind] = {
    PartKind.DISK: _Kind("describe_volumes", "Volumes", "VolumeId", "volume-id", "delete_volume", "VolumeId"),
    PartKind.NETWORK_CARD: _Kind(
        "describe_network_interfaces",
        "NetworkInterfaces",
        "NetworkInterfaceId",
        "network-interface-id",
        "delete_network_interface",
        "NetworkInterfaceId",
    ),
    PartKind.ADDRESS: _Kind(
        "describe_addresses", "Addresses", "AllocationId", "allocation-id", "release_address", "AllocationId"
    ),
}


class Ec2Parts:
    """What one fleet has left in one region."""

    def __init__(self, client: Any, fleet: str) -> None:
        self._client, self._fleet = client, fleet

    def loose(self) -> Sequence[MachinePart]:
        """Return those that nothing holds, by kind and id."""
        found = [
            _part(kind, one) for kind in _KINDS for one in self._described(kind) if not _is_held(kind, one)
        ]
        return sorted(found, key=lambda one: (one.kind, one.id))

    def remove(self, part: MachinePart) -> bool:
        """Ask for its end if it is the fleet's; true if there is none such."""
        words = _KINDS[part.kind]
        named = {"Name": words.id_filter, "Values": [part.id]}
        found = next(self._described(part.kind, named), None)
        if found is None:
            return True
        if _is_held(part.kind, found):
            return False
        try:
            getattr(self._client, words.remove)(**{words.id_parameter: part.id})
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code")
            if code in _GONE | _HELD:
                return code in _GONE
            raise
        return False

    def _described(self, kind: PartKind, *filters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Yield the fleet's parts of one kind."""
        words = _KINDS[kind]
        own = [{"Name": f"tag:{FLEET_TAG}", "Values": [self._fleet]}, *filters]
        if not self._client.can_paginate(words.describe):
            yield from getattr(self._client, words.describe)(Filters=own)[words.found]
            return
        for page in self._client.get_paginator(words.describe).paginate(Filters=own):
            yield from page[words.found]


def _is_held(kind: PartKind, found: Mapping[str, Any]) -> bool:
    if kind is PartKind.ADDRESS:
        return bool(found.get("AssociationId") or found.get("InstanceId"))
    return bool(found.get("Status", found.get("State")) != "available")


def _part(kind: PartKind, found: Mapping[str, Any]) -> MachinePart:
    tags = {one["Key"]: one["Value"] for one in found.get("Tags", found.get("TagSet", ()))}
    return MachinePart(
        kind,
        str(found[_KINDS[kind].id_key]),
        LaunchId(tags[LAUNCH_TAG]) if LAUNCH_TAG in tags else None,
        found.get("CreateTime"),
    )
