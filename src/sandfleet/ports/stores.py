"""What the control plane asks of the durable store (adapter: `adapters/postgres`).

All methods raise `StoreUnavailable` when PostgreSQL cannot be reached, and never
hold a transaction open over anything but SQL. Reads that serve a tenant take the
organisation; there is no way to ask without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from sandfleet.model.checkpoint import Checkpoint
from sandfleet.model.ids import KeyId, OperationId, OrganisationId, SandboxId, WorkerId
from sandfleet.model.operation import Operation
from sandfleet.model.organisation import ApiKey, Caps, Organisation, Quotas
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.snapshot import Snapshot
from sandfleet.model.transition import Transition
from sandfleet.model.worker import Worker
from sandfleet.planning.placement import FleetView, NoPlacement, Placement
from sandfleet.planning.queue import Waiting
from sandfleet.planning.repair import Presence


@dataclass(frozen=True, slots=True)
class SandboxFilter:
    """What a list of sandboxes may be narrowed to; `cursor` is the last row of the page before."""

    states: frozenset[SandboxState] | None = None
    alias: str | None = None
    limit: int = 100
    cursor: tuple[datetime, SandboxId] | None = None


class SandboxStore(Protocol):
    """Sandboxes, their operations and their log. Each write is one transaction with its log row."""

    async def create(self, sandbox: Sandbox, operation: Operation, transition: Transition) -> bool:
        """Insert a `creating` row with its operation, after the admission check of the quotas.

        Raises QuotaExceeded. The check and the insert are one transaction under the
        organisation's row lock, so parallel requests cannot pass the same check. A row
        of that id and organisation that is there already makes it do nothing and return
        False: the operation is then not the caller's to run. NotFound when the checkpoint
        that it is forked from was deleted.
        """
        ...

    async def start_fork(
        self,
        sandbox: Sandbox,
        operation: Operation,
        transition: Transition,
        *,
        snapshot: Snapshot,
        created: Sequence[tuple[Sandbox, Operation, Transition]],
        is_partial: bool,
    ) -> int:
        """Begin an operation as `start_operation` does and insert its forks; return how many.

        QuotaExceeded when not all fit, with `is_partial` only when not even the first does.
        """
        ...

    async def start_operation(  # noqa: PLR0913 -- one argument for each part of a beginning
        self,
        sandbox: Sandbox,
        operation: Operation,
        transition: Transition,
        *,
        term: int | None = None,
        admits: bool = False,
        snapshot: Snapshot | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Write `sandbox` as `save` does and insert the operation that the new state calls for.

        With `term`, StaleTerm is raised and nothing is written if a newer leader was elected.
        With `admits` the quotas are checked first (QuotaExceeded), as for a create. `snapshot` and
        `checkpoint` are inserted with it; Conflict `name_taken` when the name is in use.
        """
        ...

    async def get(self, organisation_id: OrganisationId, sandbox_id: SandboxId) -> Sandbox:
        """Return it or raise NotFound; another organisation's sandbox is not found."""
        ...

    async def get_any(self, sandbox_id: SandboxId) -> Sandbox:
        """Return it for the fleet's own loops, which act for no tenant."""
        ...

    async def list(self, organisation_id: OrganisationId, where: SandboxFilter) -> Sequence[Sandbox]:
        """Return newest first."""
        ...

    async def save(self, sandbox: Sandbox, transition: Transition | None) -> None:
        """Write `sandbox` if the row still has `sandbox.version - 1`, else raise StaleVersion."""
        ...

    async def transitions(
        self,
        organisation_id: OrganisationId,
        sandbox_id: SandboxId,
        *,
        limit: int = 100,
        before: int | None = None,
    ) -> Sequence[Transition]:
        """Return the sandbox's log, newest first; with `before` from the row below that number on."""
        ...

    async def kill(self, sandbox: Sandbox, destroy: Operation, transition: Transition) -> None:
        """Write the stopped row, ask every open operation of it to cancel, insert `destroy`."""
        ...

    async def touch(self, active_at: Mapping[SandboxId, datetime]) -> None:
        """Move `active_at` forward (never back) without changing versions."""
        ...

    async def idle_candidates(self, *, limit: int = 100) -> Sequence[Sandbox]:
        """Return running sandboxes whose timeout has passed since `active_at` by the database's clock."""
        ...

    async def counts(self) -> Mapping[SandboxState, int]:
        """Return how many sandboxes are in each state; states without any are left out."""
        ...

    async def presence(self, worker_id: WorkerId) -> Sequence[Presence]:
        """Return what the store expects on a worker: rows and reservations that name it."""
        ...

    async def on_worker(self, worker_id: WorkerId) -> Sequence[Sandbox]:
        """Return all sandboxes whose row or reservation names the worker."""
        ...

    async def remove_old(self, *, stopped_for: timedelta, events_for: timedelta, limit: int = 1000) -> int:
        """Delete ended rows and log rows older than that; return how many rows went.

        A row that still holds a reservation or an open operation stays.
        """
        ...


@dataclass(frozen=True, slots=True)
class Placed:
    """A placement as it was written down."""

    sandbox: Sandbox
    operation: Operation
    worker: Worker
    placement: Placement


class PlacementStore(Protocol):
    """Reservations: decided and written in one transaction."""

    async def place(
        self,
        operation: Operation,
        sandbox: Sandbox,
        decide: PlacementDecision,
        *,
        at: datetime,
    ) -> Placed | NoPlacement:
        """Lock placement, read the view, call `decide`, write reservation, owner, epoch and next step.

        What comes back is already written. NoPlacement writes nothing. Raises
        StaleVersion when the row changed, StaleLease when the operation was lost.
        """
        ...

    async def give_back(self, operation: Operation, sandbox: Sandbox, transition: Transition) -> None:
        """Remove the reservation of a VM that its worker refused, and write both as given.

        `sandbox` has no worker and the next version; the checks are those of `place`.
        """
        ...

    async def release(self, sandbox_id: SandboxId, *, worker_id: WorkerId) -> None:
        """Give the reservation back. Idempotent."""
        ...

    async def reserved_on(self, worker_id: WorkerId) -> Mapping[SandboxId, int]:
        """Return how much memory is promised there to each sandbox that it is the worker of."""
        ...

    async def queue_length(self) -> int:
        """Return how many creates wait for a place."""
        ...

    async def waiting(self) -> Sequence[Waiting]:
        """Return the creates that wait for a place, the oldest first, up to a bound."""
        ...


class PlacementDecision(Protocol):
    """A pure decision over the view that the store read under its lock."""

    def __call__(self, view: FleetView, waiting: Sequence[Waiting]) -> Placement | NoPlacement:
        """Return where, or why nowhere, given the fleet and the creates that were refused before."""
        ...


class OperationStore(Protocol):
    """Durable operations and their leases."""

    async def get(self, operation_id: OperationId) -> Operation:
        """Return it or raise NotFound."""
        ...

    async def save(self, operation: Operation) -> Operation:
        """Write step, progress and state if the lease token still matches; StaleLease otherwise.

        Also prolongs the lease by its full length.
        """
        ...

    async def finish(  # noqa: PLR0913 -- what an end may mean
        self,
        operation: Operation,
        *,
        sandbox: Sandbox | None = None,
        transition: Transition | None = None,
        follow_up: Operation | None = None,
        releases: bool = False,
        snapshot: Snapshot | None = None,
        reserved_mib: int | None = None,
    ) -> Operation:
        """End the operation together with all that its end means, in one transaction.

        Writes the operation if its lease token matches (StaleLease), `sandbox` if the row
        still has the version before (StaleVersion), the log row, the operation that
        must follow, and with `releases` removes the sandbox's reservation; `reserved_mib` is what
        that is from now on. `snapshot` is
        written unless it is garbage by now, and decides the fate of its checkpoint.
        """
        ...

    async def let_go(self, *, holder: str) -> int:
        """End the leases of `holder` now, so that other replicas take over at once."""
        ...

    async def take_over(self, *, holder: str, lease_s: float, limit: int = 10) -> Sequence[Operation]:
        """Lease open operations whose lease has run out (database clock), token raised by one."""
        ...

    async def extend(self, operation: Operation, *, lease_s: float) -> Operation:
        """Prolong the lease by compare-and-set; StaleLease when it is lost. Refreshes `cancel_requested`."""
        ...

    async def open_for(self, sandbox_id: SandboxId) -> Sequence[Operation]:
        """Return the operations of a sandbox that have not ended."""
        ...

    async def open_for_all(self, sandbox_ids: Sequence[SandboxId]) -> Mapping[SandboxId, Sequence[Operation]]:
        """Return those of many, with one statement; who has none is left out."""
        ...

    async def find(self, operation_ids: Sequence[OperationId]) -> Mapping[OperationId, Operation]:
        """Return many, with one statement; what is not there is left out."""
        ...


class OrganisationStore(Protocol):
    """Organisations and keys."""

    async def create(self, organisation: Organisation) -> None:
        """Insert; Conflict with code `name_taken`."""
        ...

    async def get(self, organisation_id: OrganisationId) -> Organisation:
        """Return it or raise NotFound."""
        ...

    async def list(self) -> Sequence[Organisation]:
        """Return all, newest first."""
        ...

    async def change(
        self, organisation_id: OrganisationId, *, name: str | None, quotas: Quotas | None, caps: Caps | None
    ) -> Organisation:
        """Change what is not None."""
        ...

    async def usage(self, organisation_id: OrganisationId) -> Quotas:
        """Return what counts against the quotas now."""
        ...

    async def add_key(self, key: ApiKey, *, digest: bytes) -> None:
        """Insert a key by the SHA-256 of its secret."""
        ...

    async def find_keys(self, prefix: str) -> Sequence[tuple[ApiKey, bytes]]:
        """Return unrevoked keys with that prefix and their digests; the caller compares in constant time."""
        ...

    async def list_keys(self, organisation_id: OrganisationId) -> Sequence[ApiKey]:
        """Return unrevoked keys, newest first."""
        ...

    async def revoke_key(self, organisation_id: OrganisationId, key_id: KeyId) -> None:
        """Revoke; NotFound."""
        ...


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The answer of a finished request, for its replay."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    """What the store knows of a key: the body it came with, and the answer when there is one."""

    body_digest: bytes
    answer: StoredAnswer | None
    resource: Mapping[str, Any]
    """Ids that the first attempt fixed before it acted (for instance the sandbox it creates)."""
    is_mine: bool
    """Whether this call is the one that must now do the work."""


IdempotencyScope = tuple[OrganisationId, str, str, str]  # with method, path and key


class IdempotencyStore(Protocol):
    """Idempotency keys, kept for 24 h."""

    async def claim(
        self,
        scope: IdempotencyScope,
        *,
        body_digest: bytes,
        holder: str,
        lease_s: float,
        resource: Mapping[str, Any],
    ) -> IdempotencyRecord:
        """Claim the key, or return what stands there.

        A claim that ran out without an answer is handed to the caller together with the
        first attempt's `resource`, so that the work is resumed, not repeated.
        """
        ...

    async def finish(self, scope: IdempotencyScope, *, holder: str, answer: StoredAnswer) -> None:
        """Keep the answer (encrypted)."""
        ...

    async def prolong(self, scope: IdempotencyScope, *, holder: str, lease_s: float) -> None:
        """Keep our claim for so long from now; 0 lets it go together with what it has fixed."""
        ...

    async def join(self, scope: IdempotencyScope, *, holder: str, resource: Mapping[str, Any]) -> None:
        """Replace what our claim has fixed: the request goes by other work that was under way."""
        ...

    async def abandon(self, scope: IdempotencyScope, *, holder: str) -> None:
        """Forget the claim, so that a retry runs again."""
        ...

    async def remove_old(self) -> int:
        """Delete keys older than that; return how many."""
        ...


class FleetSecretStore(Protocol):
    """Key material of the fleet that must be the same on every replica."""

    async def get_or_create(self, name: str, candidate: bytes) -> bytes:
        """Return the secret of that name, encrypted at rest; `candidate` if it is the first."""
        ...


class TermStore(Protocol):
    """The leader's fencing token."""

    async def raise_term(self, holder: str) -> int:
        """Begin a new term and return its number."""
        ...

    async def current_term(self) -> int:
        """Return the newest term."""
        ...
