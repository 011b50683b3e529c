"""What every operation of a worker shares. No behaviour of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from sandfleet.adapters.fault_points import FaultPoints
from sandfleet.model.errors import BadRequest, NoCapacity, NotAvailable, NotReady
from sandfleet.ports.blobs import SnapshotStore
from sandfleet.ports.clock import Clock
from sandfleet.ports.hypervisor import Hypervisor, TemplateInfo
from sandfleet.ports.moves import Mover
from sandfleet.ports.snapshots import SavedSnapshot, SnapshotSaver
from sandfleet.worker.background import Background, OwnedTask
from sandfleet.worker.budget import Budget
from sandfleet.worker.executions import HOST_BYTES_MAX
from sandfleet.worker.moves import Moves
from sandfleet.worker.residents import Residents
from sandfleet.worker.settings import HostLimits
from sandfleet.worker.uploads import Uploads
from sandfleet.worker.warm_pool import WarmPool


@dataclass(slots=True)
class Host:
    """One host's parts, wired by `main` (or by a test around fakes)."""

    worker_id: str
    hypervisor: Hypervisor
    clock: Clock
    background: Background
    limits: HostLimits
    pool: WarmPool
    residents: Residents = field(default_factory=Residents)
    snapshots: SnapshotSaver | None = None
    store: SnapshotStore | None = None
    uploads: Uploads = field(default_factory=Uploads)
    captures: dict[str, OwnedTask[SavedSnapshot]] = field(default_factory=dict)
    """Captures under way, by snapshot: whoever asks again joins."""
    mover: Mover | None = None
    landing_address: str = "127.0.0.1"
    """Where machines of other workers are received."""
    moves: Moves = field(default_factory=Moves)
    outputs: Budget = field(default_factory=lambda: Budget(HOST_BYTES_MAX))
    """Output of commands that this process may hold in memory, over all sandboxes."""
    templates: dict[str, TemplateInfo] = field(default_factory=dict)
    accelerator: str = ""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the heartbeat has something new to say."""
    is_adopted: bool = False
    """Whether the VMs of before are known: until then nothing is proof of absence."""
    is_stopping: bool = False
    trouble: str | None = None
    """What keeps the start from going on, for `/health`; the log has the details."""
    is_cordoned: bool = False
    region: str = ""
    ask_for_size: Callable[[str, int, bytes], Awaitable[tuple[int, dict[str, Any]]]] | None = None
    """Asks the control plane for another size of a sandbox, by id and epoch, in the API's own words."""
    faults: FaultPoints = field(default_factory=FaultPoints)
    entropy: Callable[[int], bytes] = os.urandom
    clone_slots: asyncio.Semaphore = field(init=False)
    """Bounds how many cold starts clone at once: more would only slow each other down."""

    def __post_init__(self) -> None:
        self.clone_slots = asyncio.Semaphore(self.limits.clone_concurrency)

    @property
    def phase(self) -> str:
        """How far the process has come: `adopting`, `preparing` templates, `serving`, `stopping`."""
        if self.is_stopping:
            return "stopping"
        if not self.is_adopted:
            return "adopting"
        return "serving" if self.templates else "preparing"

    def require_adopted(self) -> None:
        """Raise NotReady until this process knows what the host holds."""
        if not self.is_adopted:
            raise NotReady("the worker is still looking for the VMs of its host")

    def require_memory(self, memory_mib: int) -> None:
        """Raise NoCapacity unless so much more may be promised."""
        promised_mib, budget_mib = self.residents.committed_mib, self.limits.memory_budget_mib
        if promised_mib + memory_mib > budget_mib:
            raise NoCapacity(f"short of {memory_mib} MiB: {promised_mib} of {budget_mib} MiB are promised")

    def require_snapshots(self) -> SnapshotSaver:
        """Return what saves and loads, or say that this host cannot."""
        if self.snapshots is None:
            raise NotAvailable("this worker keeps no snapshots")
        return self.snapshots

    def require_store(self) -> SnapshotStore:
        """Return the object store, or say that there is none."""
        if self.store is None:
            raise NotAvailable("this worker has no object store")
        return self.store

    def require_mover(self) -> Mover:
        """Return what lets machines come and go, or say that this host cannot."""
        if self.mover is None:
            raise NotAvailable("this worker moves no sandboxes")
        return self.mover

    def require_template(self, name: str) -> TemplateInfo:
        """Return the template, or say whether it is unknown or not ready yet."""
        info = self.templates.get(name)
        if info is not None:
            return info
        if not self.templates:
            raise NotReady("the worker is still preparing its templates", retry_after_s=5)
        raise BadRequest(f'template "{name}" is not on this worker', code="unknown_template")
