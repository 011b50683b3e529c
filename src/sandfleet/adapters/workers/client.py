"""Lifecycle calls to a worker (port: `ports.workers.WorkerClient`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import aiohttp
import msgspec

from sandfleet.adapters.fault_points import CallPoint, FaultPoints
from sandfleet.adapters.workers.connections import FleetTokens, timeouts
from sandfleet.model.errors import WorkerUnreachable
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.wire.errors import error_from
from sandfleet.wire.worker_messages import (
    EPOCH_HEADER,
    CaptureVm,
    DropSnapshot,
    MemoryUse,
    ResizedVm,
    ResizeVm,
    RestartVm,
    SavedVm,
    SaveVm,
    SnapshotDropped,
    SnapshotState,
    StartVm,
    StopVm,
    UploadSnapshot,
    VmStatus,
    VmStopped,
)

START_TIMEOUT_S = 120.0
SAVE_TIMEOUT_S = 600.0
"""Gibibytes are written and read back; the worker's own bounds on silence are tighter."""
RESIZE_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
READ_TIMEOUT_S = 10.0
ANSWER_BYTES_MAX = 16 * 1024 * 1024

T = TypeVar("T")


class AiohttpWorkerClient:
    """Encodes orders, decodes statuses, and turns error bodies back into errors."""

    def __init__(
        self, session: aiohttp.ClientSession, tokens: FleetTokens, *, faults: FaultPoints | None = None
    ) -> None:
        self._session = session
        self._faults = faults or FaultPoints()
        self._tokens = tokens

    async def start_vm(
        self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: StartVm
    ) -> VmStatus:
        """Have the VM running and its agent answering."""
        raw = await self.call(
            worker_id,
            ("PUT", f"{url}/vms/{sandbox_id}"),
            body=order,
            timeout_s=START_TIMEOUT_S,
            point="answered.start_vm",
        )
        return decoded(raw, VmStatus, worker_id)

    async def stop_vm(self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: StopVm) -> VmStopped:
        """Have nothing of it left on the host."""
        raw = await self.call(
            worker_id,
            ("DELETE", f"{url}/vms/{sandbox_id}"),
            body=order,
            timeout_s=STOP_TIMEOUT_S,
            point="answered.stop_vm",
        )
        return decoded(raw, VmStopped, worker_id)

    async def vm(self, worker_id: WorkerId, url: str, sandbox_id: SandboxId) -> VmStatus:
        """Return the state of one VM."""
        raw = await self.call(worker_id, ("GET", f"{url}/vms/{sandbox_id}"), timeout_s=READ_TIMEOUT_S)
        return decoded(raw, VmStatus, worker_id)

    async def vms(self, worker_id: WorkerId, url: str) -> Sequence[VmStatus]:
        """Return everything the host holds."""
        raw = await self.call(worker_id, ("GET", f"{url}/vms"), timeout_s=READ_TIMEOUT_S)
        return decoded(raw, list[VmStatus], worker_id)

    async def save_vm(self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: SaveVm) -> SavedVm:
        """Have the VM saved to a local snapshot, and ended."""
        target = ("POST", f"{url}/vms/{sandbox_id}/hibernate")
        raw = await self.call(
            worker_id, target, body=order, timeout_s=SAVE_TIMEOUT_S, point="answered.save_vm"
        )
        return decoded(raw, SavedVm, worker_id)

    async def capture_vm(
        self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: CaptureVm
    ) -> SavedVm:
        """Have a local snapshot of the VM, which runs on."""
        target = ("POST", f"{url}/vms/{sandbox_id}/capture")
        raw = await self.call(
            worker_id, target, body=order, timeout_s=SAVE_TIMEOUT_S, point="answered.capture_vm"
        )
        return decoded(raw, SavedVm, worker_id)

    async def resize_vm(
        self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: ResizeVm
    ) -> ResizedVm:
        """Have the guest with that size."""
        target = ("POST", f"{url}/vms/{sandbox_id}/resize")
        raw = await self.call(worker_id, target, body=order, timeout_s=RESIZE_TIMEOUT_S)
        return decoded(raw, ResizedVm, worker_id)

    async def memory_use(
        self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, *, epoch: int
    ) -> MemoryUse:
        """Return what the guest's users use of their memory."""
        target = ("GET", f"{url}/sandboxes/{sandbox_id}/stats")
        raw = await self.call(worker_id, target, timeout_s=READ_TIMEOUT_S, epoch=epoch)
        return decoded(raw, MemoryUse, worker_id)

    async def restart_vm(
        self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: RestartVm, *, is_clean: bool
    ) -> VmStatus:
        """Have the guest booted anew."""
        target = ("POST", f"{url}/vms/{sandbox_id}/{'reboot' if is_clean else 'power-cycle'}")
        raw = await self.call(worker_id, target, body=order, timeout_s=START_TIMEOUT_S)
        return decoded(raw, VmStatus, worker_id)

    async def upload_snapshot(
        self, worker_id: WorkerId, url: str, snapshot_id: str, *, term: int = 0
    ) -> SnapshotState:
        """Begin to bring the snapshot to the object store; return how it stands now."""
        target = ("PUT", f"{url}/snapshots/{snapshot_id}")
        raw = await self.call(
            worker_id,
            target,
            body=UploadSnapshot(term=term),
            timeout_s=READ_TIMEOUT_S,
            point="answered.upload_snapshot",
        )
        return decoded(raw, SnapshotState, worker_id)

    async def drop_snapshot(
        self, worker_id: WorkerId, url: str, snapshot_id: str, *, term: int = 0
    ) -> SnapshotDropped:
        """Have no local copy of the snapshot left."""
        target = ("DELETE", f"{url}/snapshots/{snapshot_id}")
        raw = await self.call(worker_id, target, body=DropSnapshot(term=term), timeout_s=STOP_TIMEOUT_S)
        return decoded(raw, SnapshotDropped, worker_id)

    async def snapshots(self, worker_id: WorkerId, url: str) -> Sequence[SnapshotState]:
        """Return every local copy and upload of the host."""
        raw = await self.call(worker_id, ("GET", f"{url}/snapshots"), timeout_s=READ_TIMEOUT_S)
        return decoded(raw, list[SnapshotState], worker_id)

    async def call(
        self,
        worker_id: WorkerId,
        target: tuple[str, str],
        *,
        body: msgspec.Struct | None = None,
        timeout_s: float,
        point: CallPoint | None = None,
        epoch: int | None = None,
    ) -> bytes:
        """Return the answer's bytes, or raise what the worker refused."""
        method, url = target
        headers = {"Authorization": f"Bearer {self._tokens(worker_id)}"}
        if epoch is not None:
            headers[EPOCH_HEADER] = str(epoch)
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with self._session.request(
                method,
                url,
                headers=headers,
                data=msgspec.json.encode(body) if body is not None else None,
                timeout=timeouts(silence_max_s=timeout_s),
                allow_redirects=False,
            ) as response:
                raw = await response.content.read(ANSWER_BYTES_MAX)
                while len(raw) < ANSWER_BYTES_MAX and not response.content.at_eof():
                    raw += await response.content.read(ANSWER_BYTES_MAX - len(raw))
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise WorkerUnreachable(f"worker {worker_id} did not answer: {type(error).__name__}") from error
        if status >= 400:
            raise error_from(status, _error_body(raw))
        if point is not None:
            await self._faults.at(point)
        return raw


def decoded(raw: bytes, kind: type[T], worker_id: WorkerId) -> T:
    """Return the answer's value; what cannot be read is as good as no answer."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise WorkerUnreachable(f"worker {worker_id} answered what is no {kind}") from error


def _error_body(raw: bytes) -> dict[str, object]:
    try:
        return msgspec.json.decode(raw, type=dict[str, object])
    except msgspec.DecodeError:
        return {}
