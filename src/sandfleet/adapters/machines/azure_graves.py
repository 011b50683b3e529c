"""Which launches of a fleet have ended in Azure, so that a late repetition begins no other machine.

# Facts
Azure forgets a machine as soon as it is gone, and its name is free. A public SSH key is a resource that costs
nothing, is written and read in one call, and carries tags.

# Design
Before a machine is ended, a key of its name is written with the time of that in a tag. It stays for a week.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from azure.core.exceptions import ResourceNotFoundError

from sandfleet.adapters.machines.azure_config import AzureClients, AzureConfig
from sandfleet.adapters.machines.tags import FLEET_TAG

ENDED_TAG = "sandfleet:ended"
KEPT = timedelta(days=7)
FORGET_EVERY = timedelta(hours=1)
_FORGOTTEN_MAX = 50


class AzureGraves:
    """Those of one fleet."""

    def __init__(self, clients: AzureClients, config: AzureConfig) -> None:
        self._keys, self._config = clients.compute.ssh_public_keys, config
        self._forgotten_at: datetime | None = None

    def has(self, machine: str) -> bool:
        """Whether the machine of that name was ended once."""
        try:
            found = self._keys.get(self._config.resource_group, machine).as_dict()
        except ResourceNotFoundError:
            return False
        return self._ended_at(found) is not None

    def add(self, machine: str, *, now: datetime) -> None:
        """Write down that it is to end. Twice is as good as once."""
        body = {
            "location": self._config.location,
            "tags": {FLEET_TAG: self._config.fleet, ENDED_TAG: now.isoformat()},
            "properties": {"publicKey": self._config.ssh_public_key},
        }
        self._keys.create(self._config.resource_group, machine, body)

    def forget_old(self, *, now: datetime) -> None:
        """Remove those that nobody can ask about any more, now and then and some at a time."""
        if self._forgotten_at is not None and now - self._forgotten_at < FORGET_EVERY:
            return
        self._forgotten_at = now
        group = self._config.resource_group
        old = [
            one for one in map(_as_dict, self._keys.list_by_resource_group(group)) if self._is_old(one, now)
        ]
        for one in old[:_FORGOTTEN_MAX]:
            self._keys.delete(group, one["name"])

    def _is_old(self, found: Mapping[str, Any], now: datetime) -> bool:
        ended_at = self._ended_at(found)
        return ended_at is not None and now - ended_at >= KEPT

    def _ended_at(self, found: Mapping[str, Any]) -> datetime | None:
        tags = found.get("tags") or {}
        if tags.get(FLEET_TAG) != self._config.fleet or ENDED_TAG not in tags:
            return None
        return datetime.fromisoformat(tags[ENDED_TAG])


def _as_dict(found: Any) -> Mapping[str, Any]:
    told: Mapping[str, Any] = found.as_dict()
    return told
