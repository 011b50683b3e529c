"""The tables, and the checks and writes that every store is made of.

Rule 1: whoever writes has checked before: first what `require_*` asks, then `write_*` and
`insert_*`. So a transaction that raises has changed nothing.
Rule 2: deadlines and leases are counted by this database's clock, whatever a writer's clock says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import msgspec

from sandfleet.model.checkpoint import Checkpoint
from sandfleet.model.drain import Drain
from sandfleet.model.errors import NotFound, QuotaExceeded, StaleLease, StaleTerm, StaleVersion
from sandfleet.model.fleet_news import FleetNews
from sandfleet.model.ids import (
    CheckpointId,
    KeyId,
    OperationId,
    OrganisationId,
    SandboxId,
    SnapshotId,
    WorkerId,
)
from sandfleet.model.launch import Launch, LaunchId
from sandfleet.model.operation import Lease, Operation, OperationState
from sandfleet.model.organisation import ApiKey, Organisation, Quotas, first_excess
from sandfleet.model.preview import Preview
from sandfleet.model.resources import NOTHING, Resources
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.snapshot import Snapshot
from sandfleet.model.transition import Transition
from sandfleet.model.worker import Worker
from sandfleet.ports.pending_commands import PendingCommand
from sandfleet.ports.rollout_store import Proof, StoredRollout, Version

DEFAULT_LEASE_S = 15.0
_UNPLACED = (SandboxState.CREATING, SandboxState.WAKING)
_UNCHANGEABLE = ("template", "region", "created_at", "port", "network_enabled", "from_checkpoint_id", "envs")


class Duplicate(Exception):
    """A row of that key is there already: what PostgreSQL calls a violation of a unique constraint."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a worker has promised to one sandbox."""

    organisation_id: OrganisationId
    worker_id: WorkerId
    resources: Resources


@dataclass(frozen=True, slots=True)
class SecondPlace:
    """What a worker has promised to a sandbox that moves and is not its own, or not yet."""

    worker_id: WorkerId
    move_id: str
    resources: Resources


@dataclass(slots=True)
class StoredOperation:
    """An operation with the parts of its lease that only the database knows."""

    operation: Operation
    holder: str | None
    token: int
    lease_s: float
    lease_until: datetime


@dataclass(slots=True)
class Claim:
    """One idempotency key."""

    body_digest: bytes
    resource: Mapping[str, Any]
    holder: str
    lease_until: datetime
    created_at: datetime
    answer: Any = None


@dataclass(slots=True)
class StoredCommand:
    """A waiting command with the times that the database counts."""

    command: PendingCommand
    holder: str
    lease_until: datetime
    deadline_at: datetime


@dataclass
class MemoryDatabase:
    """What PostgreSQL holds, in dictionaries."""

    now: Callable[[], datetime]
    organisations: dict[OrganisationId, Organisation] = field(default_factory=dict)
    keys: dict[KeyId, tuple[ApiKey, bytes]] = field(default_factory=dict)
    workers: dict[WorkerId, Worker] = field(default_factory=dict)
    quarantined: dict[WorkerId, list[SandboxId]] = field(default_factory=dict)
    drains: dict[WorkerId, Drain] = field(default_factory=dict)
    launches: dict[LaunchId, Launch] = field(default_factory=dict)
    planner_states: dict[str, dict[str, Any]] = field(default_factory=dict)
    rollouts: list[StoredRollout] = field(default_factory=list)
    versions: dict[str, Version] = field(default_factory=dict)
    proofs: dict[WorkerId, Proof] = field(default_factory=dict)
    sandboxes: dict[SandboxId, Sandbox] = field(default_factory=dict)
    operations: dict[OperationId, StoredOperation] = field(default_factory=dict)
    running: dict[OperationId, StoredOperation] = field(default_factory=dict)
    """Those of `operations` that have not ended."""
    reservations: dict[SandboxId, Reservation] = field(default_factory=dict)
    second_places: dict[SandboxId, SecondPlace] = field(default_factory=dict)
    transitions: list[Transition] = field(default_factory=list)
    snapshots: dict[SnapshotId, Snapshot] = field(default_factory=dict)
    checkpoints: dict[CheckpointId, Checkpoint] = field(default_factory=dict)
    previews: dict[tuple[SandboxId, int], Preview] = field(default_factory=dict)
    claims: dict[tuple[str, ...], Claim] = field(default_factory=dict)
    commands: dict[str, StoredCommand] = field(default_factory=dict)
    secrets: dict[str, bytes] = field(default_factory=dict)
    log_mark: int = 0
    """The row behind which the history of the whole log begins."""
    term: int = 0
    term_holder: str = ""

    # --- checks

    def require_term(self, term: int | None) -> None:
        """Raise StaleTerm unless `term` is the newest, or none is asked for."""
        if term is not None and not self.is_newest(term):
            raise StaleTerm(f"term {term} is over: the newest is {self.term}")

    def is_newest(self, term: int) -> bool:
        """Whether no newer term has begun."""
        return term == self.term

    def require_version(self, sandbox: Sandbox) -> None:
        """Raise StaleVersion unless the row is the one that `sandbox` was made from."""
        stored = self.sandboxes.get(sandbox.id)
        if stored is None or stored.version != sandbox.version - 1:
            raise StaleVersion(
                f"sandbox {sandbox.id} has changed since version {sandbox.version - 1} was read"
            )

    def require_lease(self, operation: Operation) -> StoredOperation:
        """Raise StaleLease unless the operation is open and its lease is the writer's."""
        stored = self.running.get(operation.id)
        token = operation.lease.token if operation.lease else -1
        if stored is None or stored.token != token:
            raise StaleLease(f"operation {operation.id} is no longer ours")
        return stored

    def require_new(self, operation: Operation) -> None:
        """Raise Duplicate if there is an operation of that id."""
        if operation.id in self.operations:
            raise Duplicate(f"operation {operation.id}")

    def organisation(self, organisation_id: OrganisationId) -> Organisation:
        """Return it or raise NotFound."""
        found = self.organisations.get(organisation_id)
        if found is None:
            raise NotFound(f"organisation {organisation_id} not found")
        return found

    def usage(self, organisation_id: OrganisationId) -> Quotas:
        """Return what counts against the quotas: what is reserved, and what comes without a place yet."""
        counted = [
            self._larger(sandbox_id, one.resources)
            for sandbox_id, one in self.reservations.items()
            if one.organisation_id == organisation_id
        ]
        counted += [
            row.resources
            for row in self.sandboxes.values()
            if row.organisation_id == organisation_id
            and row.state in _UNPLACED
            and row.id not in self.reservations
        ]
        total = sum(counted, start=NOTHING)
        return Quotas(len(counted), total.cpu_count, total.memory_mib, total.disk_mib)

    def _larger(self, sandbox_id: SandboxId, reserved: Resources) -> Resources:
        """Return what counts of a sandbox that moves to grow: the larger of its two places."""
        second = self.second_places.get(sandbox_id)
        memory_mib = max(reserved.memory_mib, second.resources.memory_mib if second else 0)
        return replace(reserved, memory_mib=memory_mib)

    def admit(self, organisation_id: OrganisationId, quotas: Quotas, wanted: Resources) -> None:
        """Raise QuotaExceeded if one more of that size is too much."""
        excess = first_excess(quotas, self.usage(organisation_id), wanted)
        if excess is not None:
            raise QuotaExceeded(
                f"the quota {excess.quota} of {excess.limit} is used up",
                details={"quota": excess.quota, "limit": excess.limit, "used": excess.used},
            )

    # --- reads

    def read_operation(self, stored: StoredOperation) -> Operation:
        """Return the operation as a query sees it now."""
        lease = None
        if stored.holder is not None:
            lease = Lease(stored.holder, stored.token, stored.lease_until)
        overdue = stored.operation.deadline_at < self.now()
        return replace(stored.operation, lease=lease, is_overdue=overdue)

    def open_operations(self, sandbox_id: SandboxId) -> Iterator[StoredOperation]:
        """Yield the operations of a sandbox that have not ended."""
        return (one for one in self.running.values() if one.operation.sandbox_id == sandbox_id)

    def read_worker(self, worker: Worker) -> Worker:
        """Return the worker with the sum of its reservations."""
        held = [one.resources for one in self.reservations.values() if one.worker_id == worker.id]
        held += [one.resources for one in self.second_places.values() if one.worker_id == worker.id]
        return replace(worker, committed=sum(held, start=NOTHING))

    # --- writes

    def write_sandbox(self, sandbox: Sandbox) -> None:
        """Write what may change in a sandbox's life; `active_at` only ever moves forward."""
        stored = self.sandboxes[sandbox.id]
        kept = {name: getattr(stored, name) for name in _UNCHANGEABLE}
        active = [at for at in (stored.active_at, sandbox.active_at) if at is not None]
        self.sandboxes[sandbox.id] = replace(sandbox, active_at=max(active, default=None), **kept)

    def reserve(self, sandbox_id: SandboxId, memory_mib: int) -> None:
        """Have so much reserved where it is."""
        held = self.reservations.get(sandbox_id)
        if held is not None:
            resources = replace(held.resources, memory_mib=memory_mib)
            self.reservations[sandbox_id] = replace(held, resources=resources)

    def write_operation(self, operation: Operation) -> Operation:
        """Write step, progress and state, and prolong the lease by its length."""
        stored = self.running[operation.id]
        stored.operation = replace(
            stored.operation,
            state=operation.state,
            step=operation.step,
            progress=as_json(operation.progress),
            error_code=operation.error_code,
            error_message=operation.error_message,
            finished_at=operation.finished_at,
        )
        stored.lease_until = self.now() + timedelta(seconds=stored.lease_s)
        if operation.state is not OperationState.RUNNING:
            del self.running[operation.id]
        return self.read_operation(stored)

    def insert_operation(self, operation: Operation) -> None:
        """Insert it; its deadline and its lease begin by this clock."""
        self.require_new(operation)
        lease = operation.lease
        lease_s = (lease.deadline_at - operation.created_at).total_seconds() if lease else 0.0
        lease_s = lease_s or DEFAULT_LEASE_S
        stored = StoredOperation(
            operation=replace(
                operation,
                arguments=as_json(operation.arguments),
                progress=as_json(operation.progress),
                deadline_at=self.now() + (operation.deadline_at - operation.created_at),
            ),
            holder=lease.holder if lease else None,
            token=lease.token if lease else 0,
            lease_s=lease_s,
            lease_until=self.now() + timedelta(seconds=lease_s),
        )
        self.operations[operation.id] = stored
        if operation.state is OperationState.RUNNING:
            self.running[operation.id] = stored

    def log(self, transition: Transition) -> None:
        """Append a row of the transition log."""
        self.transitions.append(replace(transition, id=len(self.transitions) + 1))

    def tell(
        self, news: FleetNews, *, actor: str, before: str | None = None, after: str | None = None
    ) -> None:
        """Append a row that is about the fleet."""
        self.log(
            Transition(
                event=news.event,
                actor=actor,
                reason=news.reason,
                at=self.now(),
                from_state=before,
                to_state=after,
                worker_id=news.worker_id,
                detail=as_json(news.detail),
            )
        )


def as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value as it comes back from a JSON column."""
    if not value:
        return {}
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(dict(value)))
    return decoded
