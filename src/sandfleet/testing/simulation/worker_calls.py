"""Workers as a replica calls them, over a network that fails (port: `ports.workers.WorkerClient`)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from sandfleet.model.errors import WorkerUnreachable
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.testing.simulation.host import Host
from sandfleet.testing.simulation.host_guests import memory_use
from sandfleet.testing.simulation.host_saves import Saves
from sandfleet.testing.simulation.loop import Process
from sandfleet.testing.simulation.network import Network, Weather
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

T = TypeVar("T")
PATIENCE_S = 5.0


class SimulatedWorkerClient:
    """Calls of one process. A call belongs to the worker's process that it was sent to, and ends with it."""

    def __init__(
        self,
        network: Network,
        process: Process,
        hosts: Mapping[WorkerId, Host],
        weather: Mapping[WorkerId, Weather],
    ) -> None:
        self._network = network
        self._process = process
        self._hosts = hosts
        self._weather = weather
        self._known: dict[WorkerId, Saves] = {}

    def _saves_of(self, worker_id: WorkerId) -> Saves:
        """Return what a host does with saved states; hosts come while the process runs."""
        if worker_id not in self._known:
            self._known[worker_id] = Saves(self._hosts[worker_id])
        return self._known[worker_id]

    async def start_vm(
        self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: StartVm
    ) -> VmStatus:
        """Have it running."""
        return await self.call(worker_id, lambda host: host.start(sandbox_id, order))

    async def stop_vm(self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: StopVm) -> VmStopped:
        """Have nothing of it left."""
        return await self.call(worker_id, lambda host: host.stop(sandbox_id, order))

    async def vm(self, worker_id: WorkerId, url: str, sandbox_id: SandboxId) -> VmStatus:
        """Return one."""
        return await self.call(worker_id, lambda host: host.vm(sandbox_id))

    async def vms(self, worker_id: WorkerId, url: str) -> Sequence[VmStatus]:
        """Return all."""
        return await self.call(worker_id, lambda host: host.held())

    async def save_vm(self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: SaveVm) -> SavedVm:
        """Save and end it."""
        saves = self._saves_of(worker_id)
        return await self.call(worker_id, lambda _: saves.save(sandbox_id, order))

    async def capture_vm(
        self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: CaptureVm
    ) -> SavedVm:
        """Save it while it runs on."""
        saves = self._saves_of(worker_id)
        return await self.call(worker_id, lambda _: saves.capture(sandbox_id, order))

    async def resize_vm(
        self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: ResizeVm
    ) -> ResizedVm:
        """Have that size."""
        saves = self._saves_of(worker_id)
        return await self.call(worker_id, lambda _: saves.resize(sandbox_id, order))

    async def memory_use(
        self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, *, epoch: int
    ) -> MemoryUse:
        """Return what its guest measures."""
        return await self.call(worker_id, lambda host: memory_use(host, sandbox_id, epoch))

    async def restart_vm(
        self, worker_id: WorkerId, url: str, sandbox_id: SandboxId, order: RestartVm, *, is_clean: bool
    ) -> VmStatus:
        """Boot it anew."""
        saves = self._saves_of(worker_id)
        return await self.call(worker_id, lambda _: saves.restart(sandbox_id, order))

    async def upload_snapshot(
        self, worker_id: WorkerId, url: str, snapshot_id: str, *, term: int = 0
    ) -> SnapshotState:
        """Begin to bring it to the object store."""
        saves = self._saves_of(worker_id)
        return await self.call(worker_id, lambda _: saves.upload(snapshot_id, term))

    async def drop_snapshot(
        self, worker_id: WorkerId, url: str, snapshot_id: str, *, term: int = 0
    ) -> SnapshotDropped:
        """Have no local copy left."""
        saves = self._saves_of(worker_id)
        return await self.call(worker_id, lambda _: saves.drop(snapshot_id, term))

    async def snapshots(self, worker_id: WorkerId, url: str) -> Sequence[SnapshotState]:
        """Return all local copies."""
        saves = self._saves_of(worker_id)
        return await self.call(worker_id, lambda _: saves.snapshots())

    async def call(self, worker_id: WorkerId, verb: Callable[[Host], Coroutine[Any, Any, T]]) -> T:
        """Have it done by the process that the worker is now."""
        host = self._hosts[worker_id]
        incarnation = host.incarnation

        def work() -> Any:
            if not host.is_up or host.incarnation != incarnation:
                raise ConnectionResetError
            return host.task(verb(host), name="call")

        post = self._network.post(self._process, self._weather[worker_id], work, patience_s=PATIENCE_S)
        try:
            answer: T = await post
        except (TimeoutError, OSError) as error:
            raise WorkerUnreachable(f"worker {worker_id} did not answer: {type(error).__name__}") from error
        return answer
