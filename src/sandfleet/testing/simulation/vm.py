"""What a host holds: VMs and saved states; and what all hosts share of the latter."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from sandfleet.model.ids import SandboxId
from sandfleet.wire.worker_messages import SavedVm
from sandfleet.worker.size_orders import SizeOrders

STARTING, RUNNING, SAVING, STOPPING, DEAD = "starting", "running", "saving", "stopping", "dead"
MOVING, ARRIVING = "moving", "arriving"


@dataclass(eq=False)
class Departure:
    """What a worker's process knows of a move away from it."""

    move_id: str
    step: str = "disks"
    sending: asyncio.Task[Any] | None = None


@dataclass(eq=False)
class Vm:
    """One VM. `written` counts what its user wrote; it goes with snapshots and comes back from them."""

    sandbox_id: SandboxId
    epoch: int
    memory_mib: int
    state: str = STARTING
    written: int = 0
    idle_since: float = 0.0
    starting: asyncio.Task[Any] | None = None
    saving: asyncio.Task[Any] | None = None
    saving_to: str = ""
    refused: set[str] = field(default_factory=set)
    """Snapshots whose making was refused: a late copy of the order is refused as well."""
    restarted: str = ""
    is_loaded: bool = False
    """Whether it is what it shall be: a start that broke off before leaves nothing."""
    successor: Vm | None = None
    departure: Departure | None = None
    departing: str = ""
    """The move for which it stands still; its manifest says so."""
    is_handed_over: bool = False
    """Whether QEMU has given all of it to the target."""
    arriving: str = ""
    """The move by which it comes, or came."""
    is_made: bool = False
    """Whether the place for it is there."""
    resizing: asyncio.Lock = field(default_factory=asyncio.Lock)
    sizes: SizeOrders = field(default_factory=SizeOrders)
    """The worker's own rule of which orders it takes."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """A saved state: what its worker says of it, and how much its user had written by then."""

    saved: SavedVm
    written: int


@dataclass
class ObjectStore:
    """What all hosts and replicas share: published artefacts."""

    published: dict[str, Artefact] = field(default_factory=dict)
    is_down: bool = False
