"""Calls of a live migration to both workers (port: `ports.move_client.MoveClient`)."""

from __future__ import annotations

import msgspec

from sandfleet.adapters.workers.client import (
    RESIZE_TIMEOUT_S,
    START_TIMEOUT_S,
    AiohttpWorkerClient,
    T,
    decoded,
)
from sandfleet.model.ids import SandboxId
from sandfleet.ports.move_client import WorkerAddress
from sandfleet.wire.move_manifest import Landing, MoveManifest
from sandfleet.wire.move_messages import (
    WAIT_S_MAX,
    AbandonMove,
    AwaitLanding,
    BackingsPublished,
    CommitMove,
    DescribeVm,
    EndMove,
    MoveAbandoned,
    MoveState,
    PublishBackings,
    ReceiveMove,
    SendMove,
)
from sandfleet.wire.worker_messages import VmStatus, VmStopped

DESCRIBE_TIMEOUT_S = 30.0
FETCH_TIMEOUT_S = 600.0
"""What disks stand on may be fetched meanwhile, or stored."""
SEND_TIMEOUT_S = WAIT_S_MAX + 30.0


class AiohttpMoveClient:
    """Encodes orders and decodes answers, over the connections of the worker client."""

    def __init__(self, client: AiohttpWorkerClient) -> None:
        self._client = client

    async def describe_vm(self, source: WorkerAddress, sandbox_id: SandboxId, *, epoch: int) -> MoveManifest:
        """Return what the target must know."""
        path, order = f"/vms/{sandbox_id}/describe", DescribeVm(epoch=epoch)
        return await self._asked(source, ("POST", path), order, MoveManifest, timeout_s=DESCRIBE_TIMEOUT_S)

    async def publish_backings(
        self, source: WorkerAddress, sandbox_id: SandboxId, *, epoch: int
    ) -> BackingsPublished:
        """Have what its disks stand on in the object store."""
        path, order = f"/vms/{sandbox_id}/backings", PublishBackings(epoch=epoch)
        return await self._asked(source, ("POST", path), order, BackingsPublished, timeout_s=FETCH_TIMEOUT_S)

    async def receive_move(self, target: WorkerAddress, move_id: str, order: ReceiveMove) -> Landing:
        """Have the place made."""
        return await self._asked(
            target, ("PUT", f"/moves/{move_id}"), order, Landing, timeout_s=FETCH_TIMEOUT_S
        )

    async def send_move(self, source: WorkerAddress, sandbox_id: SandboxId, order: SendMove) -> MoveState:
        """Begin or join."""
        path = f"/vms/{sandbox_id}/move"
        return await self._asked(source, ("PUT", path), order, MoveState, timeout_s=SEND_TIMEOUT_S)

    async def landed(self, target: WorkerAddress, move_id: str) -> MoveState:
        """Return when the target could run it."""
        path = f"/moves/{move_id}/landed"
        return await self._asked(target, ("POST", path), AwaitLanding(), MoveState, timeout_s=SEND_TIMEOUT_S)

    async def commit_move(self, target: WorkerAddress, move_id: str, order: CommitMove) -> VmStatus:
        """Have it run at the target."""
        path = f"/moves/{move_id}/commit"
        return await self._asked(target, ("POST", path), order, VmStatus, timeout_s=START_TIMEOUT_S)

    async def stay(self, source: WorkerAddress, sandbox_id: SandboxId, order: EndMove) -> VmStatus:
        """Have it run on at the source."""
        path = f"/vms/{sandbox_id}/move/stay"
        return await self._asked(source, ("POST", path), order, VmStatus, timeout_s=RESIZE_TIMEOUT_S)

    async def release_move(self, source: WorkerAddress, sandbox_id: SandboxId, order: EndMove) -> VmStopped:
        """Have nothing of it left at the source."""
        path = f"/vms/{sandbox_id}/move/release"
        return await self._asked(source, ("POST", path), order, VmStopped, timeout_s=RESIZE_TIMEOUT_S)

    async def abandon_move(self, target: WorkerAddress, move_id: str) -> MoveAbandoned:
        """Have nothing of it left at the target."""
        path = f"/moves/{move_id}"
        return await self._asked(
            target, ("DELETE", path), AbandonMove(), MoveAbandoned, timeout_s=RESIZE_TIMEOUT_S
        )

    async def _asked(
        self,
        worker: WorkerAddress,
        target: tuple[str, str],
        order: msgspec.Struct,
        kind: type[T],
        *,
        timeout_s: float,
    ) -> T:
        method, path = target
        raw = await self._client.call(
            worker.worker_id, (method, f"{worker.url}{path}"), body=order, timeout_s=timeout_s
        )
        return decoded(raw, kind, worker.worker_id)
