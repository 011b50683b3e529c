"""Workers in memory, behind the port that the control plane calls (`ports.workers.WorkerClient`).

They keep a worker's promises: the same epoch twice is one start, an older epoch is
refused for good, a stop proves that nothing is left, an idle stop is refused when busy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sandfleet.model.errors import Conflict, NoCapacity, NotFound, StaleEpoch, Unavailable, WorkerUnreachable
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.wire.worker_messages import StartVm, StopVm, VmStatus, VmStopped


@dataclass
class FakeHost:
    """One host: its VMs, the newest epoch seen of each sandbox, and what is wrong with it."""

    vms: dict[SandboxId, VmStatus] = field(default_factory=dict)
    epochs: dict[SandboxId, int] = field(default_factory=dict)
    busy: set[SandboxId] = field(default_factory=set)
    starts: int = 0
    is_unreachable: bool = False
    is_full: bool = False
    is_adopting: bool = False


class FakeWorkerClient:
    """All hosts of the fleet; a host exists from its first use."""

    def __init__(self) -> None:
        self._hosts: dict[WorkerId, FakeHost] = {}

    def host(self, worker_id: str) -> FakeHost:
        """Return a host, for tests to look at and to break."""
        return self._hosts.setdefault(WorkerId(worker_id), FakeHost())

    async def start_vm(
        self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: StartVm
    ) -> VmStatus:
        """Have it running."""
        host = self._answering(worker_id)
        self._see(host, sandbox_id, order.epoch)
        if host.is_full:
            raise NoCapacity("the host has no memory left")
        if sandbox_id not in host.vms:
            host.starts += 1
            host.vms[sandbox_id] = VmStatus(
                sandbox_id=sandbox_id, epoch=order.epoch, state="running", template_version="digest-1"
            )
        return host.vms[sandbox_id]

    async def stop_vm(self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: StopVm) -> VmStopped:
        """Have nothing of it left."""
        host = self._answering(worker_id)
        self._see(host, sandbox_id, order.epoch)
        if order.idle_since_s is not None and sandbox_id in host.busy:
            raise Conflict("something is in flight", code="busy")
        return VmStopped(sandbox_id=sandbox_id, existed=host.vms.pop(sandbox_id, None) is not None)

    async def vm(self, worker_id: WorkerId, url: str, sandbox_id: SandboxId) -> VmStatus:
        """Return one."""
        host = self._answering(worker_id)
        if sandbox_id not in host.vms:
            raise NotFound(f"no machine of {sandbox_id}")
        return host.vms[sandbox_id]

    async def vms(self, worker_id: WorkerId, url: str) -> Sequence[VmStatus]:
        """Return all."""
        return list(self._answering(worker_id).vms.values())

    def _answering(self, worker_id: WorkerId) -> FakeHost:
        host = self.host(worker_id)
        if host.is_unreachable:
            raise WorkerUnreachable(f"worker {worker_id} does not answer")
        if host.is_adopting:
            raise Unavailable("the worker is still looking for the VMs of its host")
        return host

    def _see(self, host: FakeHost, sandbox_id: SandboxId, epoch: int) -> None:
        if epoch < host.epochs.get(sandbox_id, 0):
            raise StaleEpoch(f"a newer owner of {sandbox_id} is known")
        host.epochs[sandbox_id] = epoch
