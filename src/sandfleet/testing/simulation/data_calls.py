"""What a replica has guests do: one command, and what came of it (port: `ports.data_plane.DataPlane`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import msgspec

from sandfleet.model.errors import NotAvailable
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.ports.data_plane import DataPlaneAnswer, DataPlaneRequest, WorkerSocket
from sandfleet.testing.simulation.host_guests import echo
from sandfleet.testing.simulation.worker_calls import SimulatedWorkerClient
from sandfleet.wire.worker_messages import EPOCH_HEADER


@dataclass(frozen=True, slots=True)
class _Answer:
    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield it whole."""
        yield self.body

    async def read(self, *, bytes_max: int) -> bytes:
        """Return it."""
        return self.body


@dataclass(frozen=True, slots=True)
class SimulatedDataPlane:
    """Commands of one process."""

    workers: SimulatedWorkerClient

    @asynccontextmanager
    async def send(
        self, worker_id: WorkerId, url: str, request: DataPlaneRequest
    ) -> AsyncIterator[DataPlaneAnswer]:
        """Have the command run."""
        assert isinstance(request.body, bytes)
        sandbox_id, epoch = SandboxId(request.target.split("/")[2]), int(request.headers[EPOCH_HEADER])
        said = " ".join(msgspec.json.decode(request.body)["args"])
        exit_code = await self.workers.call(worker_id, lambda host: echo(host, sandbox_id, epoch))
        yield _Answer(msgspec.json.encode({"exitCode": exit_code, "stdout": f"{said}\n", "stderr": ""}))

    def connect(
        self, worker_id: WorkerId, url: str, target: str, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[WorkerSocket]:
        """Refuse: nobody here opens one."""
        raise NotAvailable("no sockets are simulated")
