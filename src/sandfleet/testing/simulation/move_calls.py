"""Both workers of a move as a replica calls them, over a network that fails (port: `ports.move_client`)."""

from __future__ import annotations

from collections.abc import Mapping

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


class SimulatedMoveClient:
    """Calls of one process, on the ways of its worker client."""

    def __init__(self, client: SimulatedWorkerClient, moves: Mapping[WorkerId, Moves]) -> None:
        self._client = client
        self._moves = moves

    async def describe_vm(self, source: WorkerAddress, sandbox_id: SandboxId, *, epoch: int) -> MoveManifest:
        """Return what the target must know."""
        moves = self._moves[source.worker_id]
        return await self._client.call(source.worker_id, lambda _: moves.describe(sandbox_id, epoch))

    async def publish_backings(
        self, source: WorkerAddress, sandbox_id: SandboxId, *, epoch: int
    ) -> BackingsPublished:
        """Have what its disks stand on in the object store."""
        moves = self._moves[source.worker_id]
        return await self._client.call(source.worker_id, lambda _: moves.publish(sandbox_id, epoch))

    async def receive_move(self, target: WorkerAddress, move_id: str, order: ReceiveMove) -> Landing:
        """Have the place made."""
        moves = self._moves[target.worker_id]
        return await self._client.call(target.worker_id, lambda _: moves.receive(move_id, order))

    async def send_move(self, source: WorkerAddress, sandbox_id: SandboxId, order: SendMove) -> MoveState:
        """Begin or join."""
        moves = self._moves[source.worker_id]
        return await self._client.call(source.worker_id, lambda _: moves.send(sandbox_id, order))

    async def landed(self, target: WorkerAddress, move_id: str) -> MoveState:
        """Return when the target could run it."""
        moves = self._moves[target.worker_id]
        return await self._client.call(target.worker_id, lambda _: moves.landed(move_id))

    async def commit_move(self, target: WorkerAddress, move_id: str, order: CommitMove) -> VmStatus:
        """Have it run at the target."""
        moves = self._moves[target.worker_id]
        return await self._client.call(target.worker_id, lambda _: moves.commit(move_id, order))

    async def stay(self, source: WorkerAddress, sandbox_id: SandboxId, order: EndMove) -> VmStatus:
        """Have it run on at the source."""
        moves = self._moves[source.worker_id]
        return await self._client.call(source.worker_id, lambda _: moves.stay(sandbox_id, order))

    async def release_move(self, source: WorkerAddress, sandbox_id: SandboxId, order: EndMove) -> VmStopped:
        """Have nothing of it left at the source."""
        moves = self._moves[source.worker_id]
        return await self._client.call(source.worker_id, lambda _: moves.release(sandbox_id, order))

    async def abandon_move(self, target: WorkerAddress, move_id: str) -> MoveAbandoned:
        """Have nothing of it left at the target."""
        moves = self._moves[target.worker_id]
        return await self._client.call(target.worker_id, lambda _: moves.abandon(move_id))
