"""A worker as the control plane calls it (adapter: `adapters/workers`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.wire.worker_messages import StartVm, StopVm, VmStatus, VmStopped


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
