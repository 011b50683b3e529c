"""A fleet whose sandboxes can be moved: two real worker services on fake hosts; what is inside goes along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from sandfleet.testing.fake_hypervisor import FakeHypervisor
from sandfleet.testing.fake_mover import FakeMover, Wires
from sandfleet.testing.fake_worker import fake_worker

if TYPE_CHECKING:
    from .conftest import Fleet, OpenFleet

POLLS_MAX = 500


@dataclass
class Pair:
    """A fleet with two workers that can move sandboxes, and one that cannot."""

    fleet: Fleet
    hosts: dict[str, FakeHypervisor]

    @property
    def client(self) -> httpx.AsyncClient:
        return self.fleet.client

    async def workers(self) -> dict[str, Any]:
        found = (await self.client.get("/api/workers")).json()
        return {one["worker_id"]: one for one in found if one["worker_id"] in self.hosts}

    async def create(self) -> tuple[str, str, str]:
        """Return a sandbox, the worker that it is on, and the other one."""
        sandbox = await self.fleet.create()
        workers = await self.workers()
        home = next(name for name, one in workers.items() if sandbox in one["sandboxes"])
        return sandbox, home, next(name for name in self.hosts if name != home)

    async def until_cleared(self) -> dict[str, int]:
        """Return what each worker has promised when no move is being cleared away."""
        for _ in range(POLLS_MAX):
            promised = {name: one["committed_memory_mb"] for name, one in (await self.workers()).items()}
            if sum(promised.values()) <= 1024:
                return promised
            await asyncio.sleep(0.02)
        raise AssertionError(promised)


@asynccontextmanager
async def movable(open_fleet: OpenFleet, directory: Path, *, join_token: str) -> AsyncIterator[Pair]:
    """Two workers beside the fleet's own, which is too small for anything."""
    wires = Wires()
    async with (
        open_fleet(memory_budget_mib=1024, memory_default_mb=1024) as fleet,
        FakeHypervisor() as first,
        FakeHypervisor() as second,
    ):
        options = {"control_url": fleet.url, "join_token": join_token}
        async with (
            fake_worker(
                first,
                worker_id="wk-a",
                data_dir=directory / "a",
                mover=FakeMover(first, wires),
                memory_budget_mib=8192,
                **options,
            ),
            fake_worker(
                second,
                worker_id="wk-b",
                data_dir=directory / "b",
                mover=FakeMover(second, wires),
                memory_budget_mib=8192,
                **options,
            ),
        ):
            made = Pair(fleet, {"wk-a": first, "wk-b": second})
            filler = await fleet.create()  # the best fit is the small one
            for _ in range(POLLS_MAX):
                known = await made.workers()
                if len(known) == 2 and all(one["golden_version"] for one in known.values()):
                    break
                await asyncio.sleep(0.02)
            yield made
            await fleet.client.delete(f"/api/sandboxes/{filler}")


async def moved(pair: Pair, sandbox: str, target: str | None, **headers: str) -> httpx.Response:
    body = {} if target is None else {"targetWorker": target}
    return await pair.client.post(f"/api/sandboxes/{sandbox}/migrate", json=body, headers=headers)
