"""What is known of the fleet's workers, durably (adapter: `adapters/postgres/workers.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.fencing import Ownership

NO_HEARTBEAT = "no heartbeat; nothing follows about its sandboxes"
EMPTY = "it is empty"
SAID_TO_BE_LOST = "its host is said to be lost"
"""Why a worker is gone, if whoever forgot it gave no other reason."""


@dataclass(frozen=True, slots=True)
class Registration:
    """What a heartbeat's sender must know."""

    worker: Worker
    term: int
    quarantined: Sequence[SandboxId]


class WorkerStore(Protocol):
    """Workers."""

    async def register(self, worker: Worker) -> Registration:
        """Insert or refresh what the worker says of itself; cordon and drain stay as they are.

        A heartbeat older than the newest of the same process changes nothing. A worker
        that is `gone` stays so.
        """
        ...

    async def get(self, worker_id: WorkerId) -> Worker:
        """Return it or raise NotFound."""
        ...

    async def list(self) -> Sequence[Worker]:
        """Return all workers, by id."""
        ...

    async def owners(self, sandbox_ids: Sequence[SandboxId]) -> Mapping[SandboxId, Ownership]:
        """Return who owns these sandboxes; those without a row are left out."""
        ...

    async def mark_absent(self, state: WorkerState, *, silent_for: timedelta, term: int) -> Sequence[Worker]:
        """Move workers that have been silent so long on to `silent` or `unreachable`; return them. StaleTerm.

        Never back: only the worker's own word makes it ready again.
        """
        ...

    async def forget(self, worker_id: WorkerId, *, is_lost: bool, actor: str) -> Worker:
        """Move the worker to `gone` for ever; NotFound.

        Conflict `worker_not_empty` while a sandbox, a reservation or a snapshot that is nowhere else
        depends on it, unless `is_lost`: somebody's word that the host is no more. That word is not
        taken of a worker that speaks: Conflict `worker_alive`. Twice is as good as once. The machine that
        the fleet has launched for it is to end.
        """
        ...

    async def set_quarantined(
        self, worker_id: WorkerId, sandbox_ids: Sequence[SandboxId], *, term: int
    ) -> None:
        """Replace the list of VMs on the worker that no row owns. StaleTerm."""
        ...
