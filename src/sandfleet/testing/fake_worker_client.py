"""Workers in memory, behind the port that the control plane calls (`ports.workers.WorkerClient`).

They keep a worker's promises: the same epoch twice is one start, an older epoch is
refused for good, a stop proves that nothing is left, an idle stop is refused when busy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from sandfleet.model.errors import (
    Conflict,
    NoCapacity,
    NotFound,
    SandfleetError,
    SnapshotUnusable,
    StaleEpoch,
    Unavailable,
    WorkerUnreachable,
)
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.testing.fake_snapshots import SIZE_BYTES, a_saved_vm
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


@dataclass
class FakeHost:
    """One host: its VMs, the newest epoch seen of each sandbox, and what is wrong with it."""

    vms: dict[SandboxId, VmStatus] = field(default_factory=dict)
    epochs: dict[SandboxId, int] = field(default_factory=dict)
    busy: set[SandboxId] = field(default_factory=set)
    starts: int = 0
    saved: dict[str, SavedVm] = field(default_factory=dict)
    upload_failure: str | None = None
    uploaded_bytes: int = 0
    """How far the uploads are that fail."""
    save_failure: SandfleetError | None = None
    """Raised by the next save or capture: the VM runs on."""
    start_failure: SandfleetError | None = None
    """Raised by the next `start_failures` starts: an older VM of the sandbox is kept."""
    start_failures: int = 1
    resize_failure: SandfleetError | None = None
    restart_failure: SandfleetError | None = None
    resizes: list[ResizeVm] = field(default_factory=list)
    restarts: dict[str, bool] = field(default_factory=dict)
    orders: list[StartVm] = field(default_factory=list)
    is_unreachable: bool = False
    is_full: bool = False
    is_adopting: bool = False


class FakeWorkerClient:
    """All hosts of the fleet; a host exists from its first use."""

    def __init__(self) -> None:
        self.hosts: dict[WorkerId, FakeHost] = {}
        self.durable: dict[str, SavedVm] = {}
        """What stands in the object store, which all hosts share."""
        self.used_mib: dict[SandboxId, int] = {}
        """What the users of a guest use of its memory, wherever it is."""

    def host(self, worker_id: str) -> FakeHost:
        """Return a host, for tests to look at and to break."""
        return self.hosts.setdefault(WorkerId(worker_id), FakeHost())

    async def start_vm(
        self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: StartVm
    ) -> VmStatus:
        """Have it running."""
        host = self.answering(worker_id)
        self._see(host, sandbox_id, order.epoch)
        if host.is_full:
            raise NoCapacity("the host has no memory left")
        known = host.vms.get(sandbox_id)
        if known is None or known.epoch < order.epoch:
            if host.start_failure is not None and host.start_failures > 0:
                host.start_failures -= 1
                raise host.start_failure
            source = order.snapshot
            if source is not None and not {source.snapshot_id} & (host.saved.keys() | self.durable.keys()):
                raise SnapshotUnusable(f"snapshot {source.snapshot_id} is nowhere")
            host.starts += 1
            host.orders.append(order)
            host.vms[sandbox_id] = VmStatus(
                sandbox_id=sandbox_id,
                epoch=order.epoch,
                state="running",
                memory_mib=order.memory_mib,
                template_version="digest-1",
            )
        return host.vms[sandbox_id]

    async def stop_vm(self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: StopVm) -> VmStopped:
        """Have nothing of it left."""
        host = self.answering(worker_id)
        self._see(host, sandbox_id, order.epoch)
        if order.idle_since_s is not None and sandbox_id in host.busy:
            raise Conflict("something is in flight", code="busy")
        return VmStopped(sandbox_id=sandbox_id, existed=host.vms.pop(sandbox_id, None) is not None)

    async def vm(self, worker_id: WorkerId, url: str, sandbox_id: SandboxId) -> VmStatus:
        """Return one."""
        host = self.answering(worker_id)
        if sandbox_id not in host.vms:
            raise NotFound(f"no machine of {sandbox_id}")
        return host.vms[sandbox_id]

    async def vms(self, worker_id: WorkerId, url: str) -> Sequence[VmStatus]:
        """Return all."""
        return list(self.answering(worker_id).vms.values())

    async def save_vm(self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: SaveVm) -> SavedVm:
        """Save and end it."""
        host = self.answering(worker_id)
        if order.snapshot_id not in host.saved:
            self._see(host, sandbox_id, order.epoch)
            if order.idle_since_s is not None and sandbox_id in host.busy:
                raise Conflict("something is in flight", code="busy")
            self._save(host, sandbox_id, order.snapshot_id)
            del host.vms[sandbox_id]
        return host.saved[order.snapshot_id]

    async def capture_vm(
        self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: CaptureVm
    ) -> SavedVm:
        """Save it while it runs on."""
        host = self.answering(worker_id)
        if order.snapshot_id not in host.saved:
            self._see(host, sandbox_id, order.epoch)
            self._save(host, sandbox_id, order.snapshot_id)
        return host.saved[order.snapshot_id]

    async def resize_vm(
        self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: ResizeVm
    ) -> ResizedVm:
        """Have that size, unless `resize_failure` is raised once."""
        host = self.answering(worker_id)
        vm = host.vms.get(sandbox_id)
        if vm is None or vm.epoch != order.epoch:
            raise StaleEpoch("the sandbox is not here under that epoch")
        failure, host.resize_failure = host.resize_failure, None
        if failure is not None:
            raise failure
        host.vms[sandbox_id] = msgspec.structs.replace(vm, memory_mib=order.memory_mib)
        host.resizes.append(order)
        return ResizedVm(memory_mib=order.memory_mib, cpu_percent=order.cpu_percent)

    async def memory_use(
        self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, *, epoch: int
    ) -> MemoryUse:
        """Return what a test has its guest use, of all that it has."""
        host = self.answering(worker_id)
        vm = host.vms.get(sandbox_id)
        if vm is None or vm.epoch != epoch:
            raise StaleEpoch("the sandbox is not here under that epoch")
        return MemoryUse(mem_usage=self.used_mib.get(sandbox_id, 0) << 20, mem_limit=vm.memory_mib << 20)

    async def restart_vm(
        self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: RestartVm, *, is_clean: bool
    ) -> VmStatus:
        """Boot it anew, once for each restart id."""
        host = self.answering(worker_id)
        vm = host.vms.get(sandbox_id)
        if vm is None or vm.epoch != order.epoch:
            raise StaleEpoch("the sandbox is not here under that epoch")
        failure, host.restart_failure = host.restart_failure, None
        if failure is not None:
            raise failure
        host.restarts.setdefault(order.restart_id, is_clean)
        return vm

    async def upload_snapshot(
        self, worker_id: WorkerId, url: str, snapshot_id: str, *, term: int = 0
    ) -> SnapshotState:
        """Be durable at once, or fail as told."""
        host = self.answering(worker_id)
        if snapshot_id not in host.saved:
            raise NotFound(f"no local copy of {snapshot_id}")
        if host.upload_failure is None:
            self.durable[snapshot_id] = host.saved[snapshot_id]
        return self._state(host, snapshot_id)

    async def drop_snapshot(
        self, worker_id: WorkerId, url: str, snapshot_id: str, *, term: int = 0
    ) -> SnapshotDropped:
        """Forget the local copy."""
        host = self.answering(worker_id)
        existed = host.saved.pop(snapshot_id, None) is not None
        return SnapshotDropped(snapshot_id=snapshot_id, existed=existed)

    async def snapshots(self, worker_id: WorkerId, url: str) -> Sequence[SnapshotState]:
        """Return all local copies."""
        host = self.answering(worker_id)
        return [self._state(host, snapshot_id) for snapshot_id in host.saved]

    def _save(self, host: FakeHost, sandbox_id: SandboxId, snapshot_id: str) -> None:
        if sandbox_id not in host.vms:
            raise NotFound(f"no machine of {sandbox_id}")
        failure, host.save_failure = host.save_failure, None
        if failure is not None:
            raise failure
        host.saved[snapshot_id] = a_saved_vm(snapshot_id, host.vms[sandbox_id])

    def _state(self, host: FakeHost, snapshot_id: str) -> SnapshotState:
        state = "durable" if snapshot_id in self.durable else "failed" if host.upload_failure else "local"
        done = SIZE_BYTES if state == "durable" else host.uploaded_bytes
        return SnapshotState(
            snapshot_id=snapshot_id,
            state=state,
            bytes_done=done,
            bytes_total=SIZE_BYTES,
            size_bytes=SIZE_BYTES,
            reason=host.upload_failure,
        )

    def answering(self, worker_id: WorkerId) -> FakeHost:
        """Return the host, or raise what keeps it from answering."""
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
