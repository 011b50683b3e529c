"""One replica with real PostgreSQL and Valkey, and a real worker service on a fake host, over HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from tests.waiting import eventually

from sandfleet.controlplane.edge import Edge
from sandfleet.controlplane.main import serve
from sandfleet.controlplane.settings import ControlPlaneSettings
from sandfleet.testing.fake_hypervisor import FakeHypervisor
from sandfleet.testing.fake_programs import HeldShell
from sandfleet.testing.fake_worker import fake_worker

from .movable import Pair, movable

BOOTSTRAP_KEY = "bootstrap-key-for-the-tests"
JOIN_TOKEN = "join-token-for-the-tests"
CREATED_WITHIN_S = 50


@dataclass
class Fleet:
    """A running fleet of one replica and one worker."""

    url: str
    edge: Edge
    hypervisor: FakeHypervisor
    shell: HeldShell
    """What runs the commands of the guests."""
    client: httpx.AsyncClient

    async def create(self, **body: Any) -> str:
        """Return the id of a new, running sandbox, however soon creates are answered here."""
        patient = {"Prefer": f"wait={CREATED_WITHIN_S}"}
        answer = await self.client.post("/api/sandboxes", json=body, headers=patient)
        assert answer.status_code == 201, answer.text
        assert answer.json()["status"] == "running"
        return str(answer.json()["sandboxID"])

    async def begin_create(self) -> str:
        """Return the id of a sandbox that stays `creating`: its host is held at the clone."""
        self.hypervisor.faults.hold("clone")
        answer = await self.client.post("/api/sandboxes", headers={"Prefer": "respond-async"})
        assert answer.status_code == 201, answer.text
        assert answer.json()["status"] == "creating"
        return str(answer.json()["sandboxID"])

    async def other_organisation(self, name: str = "other") -> httpx.AsyncClient:
        """Return a client of another organisation."""
        organisation = await self.client.post("/admin/orgs", json={"name": name})
        assert organisation.status_code == 201, organisation.text
        keys = f"/admin/orgs/{organisation.json()['id']}/keys"
        key = (await self.client.post(keys, json={"name": "k"})).json()["key"]
        return httpx.AsyncClient(base_url=self.url, headers={"X-API-Key": key}, timeout=60)

    async def command(self, *words: str) -> Any:
        """Return what the command line says as JSON, with the first organisation's key."""
        given = [sys.executable, "-m", "sandfleet", *words, "--json", "--url", self.url]
        process = await asyncio.create_subprocess_exec(
            *given, "--api-key", BOOTSTRAP_KEY, stdout=PIPE, stderr=PIPE
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return json.loads(out)

    def anonymous(self) -> httpx.AsyncClient:
        """Return a client without a credential."""
        return httpx.AsyncClient(base_url=self.url, timeout=60)


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[None]:
    """Say only what is wrong: a fuzzed fleet says thousands of lines a second."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    yield
    structlog.reset_defaults()


OpenFleet = Callable[..., AbstractAsyncContextManager[Fleet]]


@pytest.fixture
def open_fleet(postgres_url: str, redis_url: str, tmp_path: Path) -> OpenFleet:
    """Start a fleet with settings of the test's own."""

    @asynccontextmanager
    async def opened(*, memory_budget_mib: int = 65536, **settings: Any) -> AsyncIterator[Fleet]:
        given: dict[str, Any] = {
            "postgres_url": postgres_url,
            "redis_url": redis_url,
            "master_secret": "5a" * 32,
            "bootstrap_key": BOOTSTRAP_KEY,
            "join_token": JOIN_TOKEN,
            "listen_port": 0,
            "heartbeat_interval_s": 0.2,
            "drain_notice_s": 0,
            "drain_max_s": 2,
            "blob_store_url": (tmp_path / "store").as_uri(),  # where the worker keeps it unless told
            **settings,
        }
        stop = asyncio.Event()
        listening: asyncio.Future[tuple[Edge, int]] = asyncio.get_running_loop().create_future()
        async with asyncio.TaskGroup() as group:
            group.create_task(
                serve(
                    ControlPlaneSettings(**given),
                    stop=stop,
                    on_listening=lambda edge, port: listening.set_result((edge, port)),
                )
            )
            edge, port = await listening
            url, shell = f"http://127.0.0.1:{port}", HeldShell()
            async with (
                FakeHypervisor(program=shell) as hypervisor,
                httpx.AsyncClient(base_url=url, headers={"X-API-Key": BOOTSTRAP_KEY}, timeout=60) as client,
                fake_worker(
                    hypervisor,
                    worker_id="wk-1",
                    control_url=url,
                    join_token=JOIN_TOKEN,
                    data_dir=tmp_path / "worker",
                    memory_budget_mib=memory_budget_mib,
                ),
            ):
                await _worker_is_known(client)
                yield Fleet(url=url, edge=edge, hypervisor=hypervisor, shell=shell, client=client)
            stop.set()

    return opened


@pytest.fixture
async def fleet(open_fleet: OpenFleet) -> AsyncIterator[Fleet]:
    """A fleet with the default settings."""
    async with open_fleet() as opened:
        yield opened


async def _worker_is_known(client: httpx.AsyncClient) -> None:
    async def is_known() -> bool:
        workers = (await client.get("/api/workers")).json()
        return bool(workers and workers[0]["golden_version"])

    await eventually(is_known, what="the worker's report")


@pytest.fixture
async def pair(open_fleet: OpenFleet, tmp_path: Path) -> AsyncIterator[Pair]:
    """Two workers between which sandboxes move, beside the fleet's own, which is too small for anything."""
    async with movable(open_fleet, tmp_path, join_token=JOIN_TOKEN) as made:
        yield made
