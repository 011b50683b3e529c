"""Of which type each event of the transition log is: readers ask for types, and rows have events.

Rule 1: an event is of one type. What no type names is `other`, and never left out of the whole log.
Rule 2: the rows of `FLEET_TYPES` are about the fleet itself and name no sandbox.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

OTHER = "other"
EVENTS_OF_TYPE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "create": ("created", "booted"),
        "place": ("placed", "refused", "cleared"),
        "destroy": ("kill_requested", "destroyed", "expired"),
        "scale": ("resize_requested", "resized", "resize_failed"),
        "autoscale": ("autoscale_on", "autoscale_off", "scaling_locked", "scaling_unlocked"),
        "hibernate": ("hibernate_requested", "idle_expired", "expiry_refused", "hibernate_failed", "saved"),
        "wake": ("wake_requested", "woken", "wake_failed", "recover"),
        "checkpoint": ("checkpoint_requested", "captured"),
        "restore": ("restore_requested", "restored", "restore_failed"),
        "fork": ("fork_requested",),
        "migrate": ("migrate_requested", "moved", "migrated", "migrate_failed", "recalled"),
        "reboot": ("reboot_requested", "rebooted", "reboot_failed"),
        "error": ("create_failed", "lost"),
        "drain": ("drain_requested", "drain_undone", "drained", "drain_stuck"),
        "worker": ("registered", "seen", "silent", "unreachable", "forgotten"),
        "leader": ("elected",),
        "scaler": (
            "launch_requested",
            "launch_joined",
            "launch_failed",
            "machine_gone",
            "orphan_seen",
            "orphan_ended",
            "backed_off",
            "frozen",
            "unfrozen",
        ),
        "rollout": ("rollout",),
        "pressure": ("pressed", "relieved"),
    }
)
FLEET_TYPES = frozenset({"drain", "worker", "leader", "scaler", "rollout", "pressure"})
FLEET_ACTORS = ("drain", "pressure")
"""Loops that have single sandboxes move or sleep: the beginning of each is a decision of the fleet."""
_TYPES = {event: name for name, events in EVENTS_OF_TYPE.items() for event in events}


def type_of(event: str) -> str:
    """Return the type of an event."""
    return _TYPES.get(event, OTHER)


def events_of(types: Iterable[str]) -> frozenset[str]:
    """Return the events of these types; KeyError for what is none."""
    return frozenset(event for name in types for event in EVENTS_OF_TYPE[name])
