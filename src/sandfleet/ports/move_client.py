"""Both workers of a move as the control plane calls them (adapter: `adapters/workers`).

`wire.move_messages` says what each call means and in which order they come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.wire.move_manifest import Landing, MoveManifest
from sandfleet.wire.move_messages import (
    BackingsPublished,
    CommitMove,
    EndMove,
    MoveAbandoned,
    MoveState,
    ReceiveMove,
    SendMove,
)
from sandfleet.wire.worker_messages import VmStatus, VmStopped


@dataclass(frozen=True, slots=True)
class WorkerAddress:
    """A worker and where it listens."""

    worker_id: WorkerId
    url: str


class MoveClient(Protocol):
    """All calls are idempotent; they raise what `ports.workers.WorkerClient` raises."""

    async def describe_vm(self, source: WorkerAddress, sandbox_id: SandboxId, *, epoch: int) -> MoveManifest:
        """Return what the target must know."""
        ...

    async def publish_backings(
        self, source: WorkerAddress, sandbox_id: SandboxId, *, epoch: int
    ) -> BackingsPublished:
        """Have what its disks stand on in the object store."""
        ...

    async def receive_move(self, target: WorkerAddress, move_id: str, order: ReceiveMove) -> Landing:
        """Have the place made; the same move twice is one place."""
        ...

    async def send_move(self, source: WorkerAddress, sandbox_id: SandboxId, order: SendMove) -> MoveState:
        """Begin or join, and return when something decisive is known or `wait_s` is over."""
        ...

    async def landed(self, target: WorkerAddress, move_id: str) -> MoveState:
        """Return when the target could run it; an error says that it never will."""
        ...

    async def commit_move(self, target: WorkerAddress, move_id: str, order: CommitMove) -> VmStatus:
        """Have it run at the target. Only ever sent when the row says that it is there."""
        ...

    async def stay(self, source: WorkerAddress, sandbox_id: SandboxId, order: EndMove) -> VmStatus:
        """Have it run on at the source. Only ever sent when it can never be committed."""
        ...

    async def release_move(self, source: WorkerAddress, sandbox_id: SandboxId, order: EndMove) -> VmStopped:
        """Have nothing of it left at the source."""
        ...

    async def abandon_move(self, target: WorkerAddress, move_id: str) -> MoveAbandoned:
        """Have nothing of it left at the target, nor ever again by this move."""
        ...
