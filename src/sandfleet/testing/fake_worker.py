"""A worker without virtual machines: the real worker service around a fake host.

Everything that travels is real: heartbeats, fleet tokens, epochs, the data plane. Only
the machines and what runs inside them are memory, so a test can hold or break any step.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import SecretStr

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.ports.moves import Mover
from sandfleet.testing.fake_hypervisor import FakeHypervisor
from sandfleet.testing.fake_snapshot_saver import FakeSnapshotSaver
from sandfleet.worker.main import serve
from sandfleet.worker.settings import WorkerSettings


@asynccontextmanager
async def fake_worker(  # noqa: PLR0913 -- what a worker is made of
    hypervisor: FakeHypervisor,
    *,
    worker_id: str,
    control_url: str,
    join_token: str,
    data_dir: Path,
    memory_budget_mib: int = 65536,
    mover: Mover | None = None,
    machine_id: str | None = None,
    worker_version: str = "",
) -> AsyncIterator[WorkerSettings]:
    """Run a worker that reports to `control_url` until the block ends."""
    settings = WorkerSettings(
        worker_id=worker_id,
        machine_id=machine_id or worker_id,
        worker_version=worker_version,
        listen_host="127.0.0.1",
        listen_port=0,
        control_url=control_url,
        join_token=SecretStr(join_token),
        data_dir=data_dir,
        memory_budget_mib=memory_budget_mib,
        cpu_budget=64,
        disk_budget_mib=100 * 1024 * 1024,
        warm_pool_size=0,
        heartbeat_interval_s=0.2,
    )
    snapshots = FakeSnapshotSaver(hypervisor, data_dir / "snapshots")
    stop = asyncio.Event()
    async with TaskGroup() as group:
        serving = group.create_task(
            serve(settings, hypervisor, stop=stop, snapshots=snapshots, mover=mover), name=worker_id
        )
        try:
            yield settings
        finally:
            stop.set()
            await asyncio.wait({serving})
