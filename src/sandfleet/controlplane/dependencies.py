"""What one replica of the control plane is made of, wired once by `main.py`.

Rule 1: everything that serves a request or runs an operation gets this value; nothing
reaches for a global.
Rule 2: the HTTP edge knows the operations only through `Lifecycle`. Each of its verbs
returns when the request is durable (row and operation are written), not when the work
is done: whoever wants the end waits on the sandbox's topic and reads the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from sandfleet.adapters.fault_points import FaultPoints
from sandfleet.model.checkpoint import Checkpoint
from sandfleet.model.drain import Stay
from sandfleet.model.ids import CheckpointId, OperationId, OrganisationId, SandboxId, SnapshotId, WorkerId
from sandfleet.model.operation import Operation
from sandfleet.model.resources import Resources
from sandfleet.model.sandbox import Sandbox
from sandfleet.planning.capacity_policy import CapacityPolicy
from sandfleet.planning.placement import NoPlacement
from sandfleet.planning.rollout_health import RolloutPolicy
from sandfleet.ports.blobs import SnapshotStore
from sandfleet.ports.clock import Clock
from sandfleet.ports.coordination import LeaseStore, RouteCache, WakeUps
from sandfleet.ports.data_plane import DataPlane
from sandfleet.ports.drain_store import DrainStore
from sandfleet.ports.fleet_store import FleetStore
from sandfleet.ports.labels import PreviewStore, TagStore
from sandfleet.ports.machine_pool import MachinePool
from sandfleet.ports.move_client import MoveClient
from sandfleet.ports.move_store import MoveStore
from sandfleet.ports.pending_commands import PendingCommandStore
from sandfleet.ports.rollout_store import RolloutStore
from sandfleet.ports.saved_states import CheckpointRecords, SnapshotRecords
from sandfleet.ports.sizes import SizeStore
from sandfleet.ports.stores import (
    FleetSecretStore,
    IdempotencyStore,
    OperationStore,
    OrganisationStore,
    PlacementStore,
    SandboxStore,
    TermStore,
)
from sandfleet.ports.transition_log import TransitionLog
from sandfleet.ports.version_source import VersionSource
from sandfleet.ports.worker_store import WorkerStore
from sandfleet.ports.workers import WorkerClient
from sandfleet.wire.worker_messages import Heartbeat, HeartbeatAnswer

if TYPE_CHECKING:
    from sandfleet.controlplane.settings import ControlPlaneSettings


def sandbox_topic(sandbox_id: SandboxId) -> str:
    """Return the wake-up topic of everything that happens to one sandbox's row."""
    return f"sandbox:{sandbox_id}"


@dataclass(frozen=True, slots=True)
class CreateOrder:
    """A validated request for a sandbox. The caller fixed the ids, so a repeat creates nothing twice."""

    sandbox_id: SandboxId
    operation_id: OperationId
    organisation_id: OrganisationId
    resources: Resources
    template: str
    region: str
    actor: str
    timeout_s: int = 0
    port: int = 80
    network_enabled: bool = True
    envs: Mapping[str, str] = field(default_factory=dict, repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict)
    alias: str | None = None
    snapshot_id: SnapshotId | None = None
    """What it is started from instead of its template."""
    from_checkpoint_id: CheckpointId | None = None
    template_version: str | None = None
    preview_digest: bytes | None = field(default=None, repr=False)
    cpu_percent: int | None = None
    """Limit of the CPU that it begins with; None is all its vCPUs."""
    requested_at: datetime | None = None
    """When the request was read; the queue's time runs from here, not from when the row was written."""


@dataclass(frozen=True, slots=True)
class NewSize:
    """What a running sandbox is to have; the CPU limit in percent of one core, None for all its vCPUs."""

    memory_mib: int
    cpu_percent: int | None
    is_automatic: bool = False
    """Whether the fleet asks by itself; whoever else does so takes the size into his own hands."""
    reason: str | None = None
    """Why, for the log."""


@dataclass(frozen=True, slots=True)
class Evicted:
    """A sandbox that has begun to leave its worker, and why it goes where it does."""

    sandbox_id: SandboxId
    to: WorkerId
    reason: str


@dataclass(frozen=True, slots=True)
class Eviction:
    """Who leaves a worker now, and why the others stay."""

    worker_id: WorkerId
    evicted: Sequence[Evicted]
    stays: Sequence[Stay]


class Lifecycle(Protocol):
    """The verbs on sandboxes that the HTTP edge may begin."""

    async def create(self, order: CreateOrder) -> Sandbox:
        """Write the `creating` row with its operation and start it; QuotaExceeded.

        A sandbox of that id that already exists is returned as it stands.
        """
        ...

    async def created(self, sandbox_id: SandboxId, operation_id: OperationId) -> Sandbox:
        """Return what an earlier attempt of a create has written, and go on with it; NotFound."""
        ...

    async def kill(self, sandbox: Sandbox, *, actor: str) -> Sandbox:
        """Write `stopped` and the destroy operation, forget the route; a dead sandbox stays as it is.

        Wins against every concurrent change: a stale version is read again.
        """
        ...

    async def resize(self, sandbox: Sandbox, wanted: NewSize, *, operation_id: str, actor: str) -> Operation:
        """Reserve what it grows by, here or at a worker that it then moves to, and begin.

        StaleVersion, QuotaExceeded, NoCapacity.
        """
        ...

    async def migrate(
        self, sandbox: Sandbox, *, target: WorkerId | None, operation_id: str, actor: str
    ) -> Operation:
        """Write `migrating` with its operation and the place at the target; None: the planner chooses.

        StaleVersion, TargetUnavailable, Conflict while an earlier move is not cleared away.
        """
        ...

    async def evict(self, worker_id: WorkerId, *, actor: str) -> Eviction:
        """Begin to move as many of its sandboxes as there are places for; NotFound."""
        ...

    async def restart(self, sandbox: Sandbox, *, is_clean: bool, operation_id: str, actor: str) -> Operation:
        """Write `rebooting` with its operation; StaleVersion."""
        ...

    async def hibernate(self, sandbox: Sandbox, *, ids: Mapping[str, str], actor: str) -> Operation:
        """Write `hibernating` with the operation that saves it; StaleVersion."""
        ...

    async def wake(
        self,
        sandbox: Sandbox,
        *,
        actor: str,
        ids: Mapping[str, str] | None = None,
        timeout_s: int | None = None,
    ) -> Operation:
        """Write `waking` with the operation that brings it back; StaleVersion, QuotaExceeded."""
        ...

    async def checkpoint(
        self, sandbox: Sandbox, *, ids: Mapping[str, str], name: str, actor: str
    ) -> tuple[Checkpoint, Operation]:
        """Write the checkpoint with the operation that takes it; StaleVersion, BadRequest, Conflict."""
        ...

    async def restore(
        self, sandbox: Sandbox, checkpoint: Checkpoint, *, ids: Mapping[str, str], actor: str
    ) -> Operation:
        """Write `restoring` with its operation; StaleVersion."""
        ...

    async def fork(
        self, sandbox: Sandbox, orders: Sequence[CreateOrder], *, ids: Mapping[str, str], is_partial: bool
    ) -> tuple[Operation, list[Sandbox]]:
        """Write the forks with their operations; StaleVersion, QuotaExceeded."""
        ...

    async def retire(self) -> None:
        """Lead no more and take over nothing; operations that run here go on."""
        ...

    async def record_heartbeat(self, beat: Heartbeat) -> HeartbeatAnswer:
        """Register or refresh the worker, and answer what it must know."""
        ...


@dataclass(frozen=True, slots=True)
class Stores:
    """The durable stores."""

    sandboxes: SandboxStore
    placements: PlacementStore
    operations: OperationStore
    workers: WorkerStore
    organisations: OrganisationStore
    idempotency: IdempotencyStore
    secrets: FleetSecretStore
    terms: TermStore
    snapshots: SnapshotRecords
    checkpoints: CheckpointRecords
    previews: PreviewStore
    tags: TagStore
    sizes: SizeStore
    moves: MoveStore
    drains: DrainStore
    fleet: FleetStore
    rollouts: RolloutStore
    log: TransitionLog
    commands: PendingCommandStore


class Observer:
    """Told of what operations did, for the metrics. This one forgets it."""

    def operation_ended(self, operation: Operation, *, seconds: float) -> None:
        """Hear of an operation that ended on this replica, so long after its row was written."""

    def sandbox_moved(self, *, downtime_s: float) -> None:
        """Hear of a sandbox that was moved, and for how long it stood still."""

    def queue_left(self, *, seconds: float) -> None:
        """Hear of a create that waited for a place, and has one or gave up."""

    def placement_refused(self, answer: NoPlacement) -> None:
        """Hear of a create that finds no place now."""

    def worker_reported(self, worker_id: WorkerId, *, exec_sessions: int) -> None:
        """Hear what a heartbeat that reached this replica says of its worker."""

    def pool_asked(self, pool: str, *, silence: str | None, at: datetime) -> None:
        """Hear of a call to a pool of machines; `silence` is why there was no answer, if there was none."""


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """The ports that operations and loops act through.

    `replica_id` holds leases, so it is of this process alone: two processes that were given one name
    would each take the other's lease for their own.
    """

    settings: ControlPlaneSettings
    clock: Clock
    replica_id: str
    stores: Stores
    routes: RouteCache
    leases: LeaseStore
    wake_ups: WakeUps
    worker_client: WorkerClient
    public_keys: Mapping[str, object]
    """The JWKS by which workers verify fleet tokens; goes out with each heartbeat's answer."""
    observer: Observer = field(default_factory=Observer)
    blobs: SnapshotStore | None = None
    """The object store of snapshots, to unpublish and sweep what nothing needs."""
    faults: FaultPoints = field(default_factory=FaultPoints)
    move_client: MoveClient | None = None
    """Reaches both workers of a move; without it no sandbox moves."""
    pools: Mapping[str, MachinePool] = field(default_factory=dict)
    """Where machines come from, by the first part of the keys of their sizes."""
    capacity: CapacityPolicy | None = None
    """How many there shall be; without it the fleet has the workers that it is given."""
    rollout: RolloutPolicy = field(default_factory=RolloutPolicy)
    """How a new version comes to them."""
    version_source: VersionSource | None = None
    """Where somebody else says which version is wanted."""
    data_plane: DataPlane | None = None
    """How a trial of a new worker is told to do something."""
