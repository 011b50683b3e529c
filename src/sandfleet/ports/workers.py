"""A worker as the control plane calls it (adapter: `adapters/workers`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.wire.worker_messages import (
    CaptureVm,
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
    VmStatus,
    VmStopped,
)


class WorkerClient(Protocol):
    """Lifecycle calls. All are idempotent.

    Raise `WorkerUnreachable` (nothing is known), `StaleEpoch` (the worker has seen a
    newer owner), `NotFound`, `Conflict` with code `busy` (see StopVm), and
    `NoCapacity` when the host itself cannot take the VM.
    """

    async def start_vm(
        self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: StartVm
    ) -> VmStatus:
        """Have the VM running and its agent answering."""
        ...

    async def stop_vm(self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: StopVm) -> VmStopped:
        """Have nothing of it left on the host."""
        ...

    async def vm(self, worker_id: WorkerId, url: str, sandbox_id: SandboxId) -> VmStatus:
        """Return the state of one VM."""
        ...

    async def vms(self, worker_id: WorkerId, url: str) -> Sequence[VmStatus]:
        """Return everything the host holds."""
        ...

    async def save_vm(self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: SaveVm) -> SavedVm:
        """Have the VM saved to a local snapshot of the order's name, and ended.

        `NotFound` says that neither the VM nor the snapshot is there. After any other refusal the
        sandbox runs on; after `WorkerUnreachable` repeating the call tells.
        """
        ...

    async def capture_vm(
        self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: CaptureVm
    ) -> SavedVm:
        """Have a local snapshot of the VM, which runs on."""
        ...

    async def resize_vm(
        self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: ResizeVm
    ) -> ResizedVm:
        """Have the guest with that size; after a refusal it has its old one."""
        ...

    async def memory_use(
        self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, *, epoch: int
    ) -> MemoryUse:
        """Return what the guest's users use of their memory. To look neither wakes it nor keeps it awake."""
        ...

    async def restart_vm(
        self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: RestartVm, *, is_clean: bool
    ) -> VmStatus:
        """Have the guest booted anew from its own disks; the same restart id twice is one."""
        ...

    async def upload_snapshot(
        self, worker_id: WorkerId, url: str, snapshot_id: str, *, term: int = 0
    ) -> SnapshotState:
        """Begin (or begin again) to bring the snapshot to the object store; return how it stands now.

        `NotFound` says that the worker has no local copy.
        """
        ...

    async def drop_snapshot(
        self, worker_id: WorkerId, url: str, snapshot_id: str, *, term: int = 0
    ) -> SnapshotDropped:
        """Have no local copy of the snapshot left."""
        ...

    async def snapshots(self, worker_id: WorkerId, url: str) -> Sequence[SnapshotState]:
        """Return every local copy and upload of the host."""
        ...
