"""Both workers of a move as a replica calls them, over a network that fails (port: `ports.move_client`)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.ports.move_client import WorkerAddress
from sandfleet.testing.simulation.host_moves import Moves
from sandfleet.testing.simulation.worker_calls import SimulatedWorkerClient
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

Answer = TypeVar("Answer")


class SimulatedMoveClient:
    """Calls of one process, on the ways of its worker client."""

    def __init__(self, client: SimulatedWorkerClient, moves: Mapping[WorkerId, Moves]) -> None:
        self._client = client
        self._moves = moves

    async def describe_vm(self, source: WorkerAddress, sandbox_id: SandboxId, *, epoch: int) -> MoveManifest:
        """Return what the target must know."""
        return await self._of(source, lambda moves: moves.describe(sandbox_id, epoch))

    async def publish_backings(
        self, source: WorkerAddress, sandbox_id: SandboxId, *, epoch: int
    ) -> BackingsPublished:
        """Have what its disks stand on in the object store."""
        return await self._of(source, lambda moves: moves.publish(sandbox_id, epoch))

    async def receive_move(self, target: WorkerAddress, move_id: str, order: ReceiveMove) -> Landing:
        """Have the place made."""
        return await self._of(target, lambda moves: moves.receive(move_id, order))

    async def send_move(self, source: WorkerAddress, sandbox_id: SandboxId, order: SendMove) -> MoveState:
        """Begin or join."""
        return await self._of(source, lambda moves: moves.send(sandbox_id, order))

    async def landed(self, target: WorkerAddress, move_id: str) -> MoveState:
        """Return when the target could run it."""
        return await self._of(target, lambda moves: moves.landed(move_id))

    async def commit_move(self, target: WorkerAddress, move_id: str, order: CommitMove) -> VmStatus:
        """Have it run at the target."""
        return await self._of(target, lambda moves: moves.commit(move_id, order))

    async def stay(self, source: WorkerAddress, sandbox_id: SandboxId, order: EndMove) -> VmStatus:
        """Have it run on at the source."""
        return await self._of(source, lambda moves: moves.stay(sandbox_id, order))

    async def release_move(self, source: WorkerAddress, sandbox_id: SandboxId, order: EndMove) -> VmStopped:
        """Have nothing of it left at the source."""
        return await self._of(source, lambda moves: moves.release(sandbox_id, order))

    async def abandon_move(self, target: WorkerAddress, move_id: str) -> MoveAbandoned:
        """Have nothing of it left at the target."""
        return await self._of(target, lambda moves: moves.abandon(move_id))

    async def _of(
        self, worker: WorkerAddress, verb: Callable[[Moves], Coroutine[Any, Any, Answer]]
    ) -> Answer:
        """Call a verb of this worker's host."""
        moves = self._moves[worker.worker_id]
        return await self._client.call(worker.worker_id, lambda _: verb(moves))
