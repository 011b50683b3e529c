"""A machine as its pool knows it: what a launch becomes, before and after there is a worker on it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sandfleet.model.launch import LaunchFailure, LaunchId


class MachineState(StrEnum):
    """`ending`: it was told to end, by the fleet or by its pool, and is there still."""

    STARTING = "starting"
    RUNNING = "running"
    ENDING = "ending"


@dataclass(frozen=True, slots=True)
class MachineOrder:
    """What a pool is asked for. `size` is the name that the pool knows it by."""

    launch_id: LaunchId
    size: str
    version: str
    """The version of the worker's image that it boots."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine that carries the fleet's tag."""

    id: str
    """The pool's own name for it: never given to another."""
    launch_id: LaunchId | None
    """From the launch's tag; None if it carries none."""
    size: str
    state: MachineState
    launched_at: datetime
    """By the pool's own clock: boot times and grace periods count from here."""
    ends_at: datetime | None = None
    """When the pool will take it away by itself, if it has said so."""
    failure: LaunchFailure | None = None
    """Why it will never come up, if the pool found that out only after it had begun it."""
    said: str = ""
    """What the pool said of that."""


class PartKind(StrEnum):
    """What a pool makes beside a machine, and what can outlive it."""

    NETWORK_CARD = "network card"
    DISK = "disk"
    ADDRESS = "address"


@dataclass(frozen=True, slots=True)
class MachinePart:
    """One part that carries the fleet's tag and that nothing holds."""

    kind: PartKind
    id: str
    """The pool's own name for it, of all parts of its kind."""
    launch_id: LaunchId | None
    """From the launch's tag; None if it carries none."""
    made_at: datetime | None = None
    """By the pool's own clock; None where the pool does not say."""
