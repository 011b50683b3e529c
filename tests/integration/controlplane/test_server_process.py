"""The server as a process of its own: how it stops, and that its log holds no secret."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import create_server
from typing import Any

import httpx
import pytest
from tests.waiting import eventually

from sandfleet.testing.fake_hypervisor import FakeHypervisor
from sandfleet.testing.fake_worker import fake_worker

from .conftest import BOOTSTRAP_KEY, JOIN_TOKEN

MASTER_SECRET = "5a" * 32
PROGRAM = """
import sys
from pathlib import Path
from sandfleet.controlplane.main import run_server
from sandfleet.controlplane.settings import load_settings
run_server(load_settings(Path(sys.argv[1])))
"""
SETTINGS = """
postgres_url = "{postgres_url}"
redis_url = "{redis_url}"
master_secret = "{master_secret}"
bootstrap_key = "{bootstrap_key}"
join_token = "{join_token}"
listen_port = {port}
log_level = "debug"
drain_notice_s = 4
drain_max_s = 30
answer_by_s = 2
creation_queue_s = 3
"""


@dataclass
class Server:
    """A running server process."""

    process: asyncio.subprocess.Process
    client: httpx.AsyncClient

    async def log_after_stop(self) -> str:
        """Return all that it said, when it has ended."""
        _, said = await asyncio.wait_for(self.process.communicate(), 90)
        return said.decode()


@pytest.fixture
async def server(postgres_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Server]:
    async with _running(postgres_url, redis_url, tmp_path) as running:
        yield running


@asynccontextmanager
async def _running(postgres_url: str, redis_url: str, directory: Path) -> AsyncIterator[Server]:
    port = _free_port()
    file = directory / "server.toml"
    file.write_text(
        SETTINGS.format(
            postgres_url=postgres_url,
            redis_url=redis_url,
            master_secret=MASTER_SECRET,
            bootstrap_key=BOOTSTRAP_KEY,
            join_token=JOIN_TOKEN,
            port=port,
        )
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(file), stderr=asyncio.subprocess.PIPE, limit=2**24
    )
    headers = {"X-API-Key": BOOTSTRAP_KEY}
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30
        ) as client:
            await _until_ready(client)
            yield Server(process, client)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_a_stop_lets_requests_end_and_exits_with_zero(server: Server) -> None:
    """SIGTERM: readiness goes first, the listener next, requests in flight are answered."""
    async with asyncio.TaskGroup() as group:
        # No worker is there, so this create waits until its time is over.
        create = group.create_task(server.client.post("/api/sandboxes"))
        await eventually(lambda: _answer(server, "/api/sandboxes"), what="the create to be under way")
        server.process.send_signal(signal.SIGTERM)
        ready = await eventually(lambda: _refusal(server), what="the server to be no longer ready")
        assert ready is not None
        assert ready.json()["reason"] == "draining"
        assert ready.headers["connection"] == "close"  # what is kept open would be sent into
    answer = create.result()
    assert answer.status_code in (201, 503), answer.text
    assert answer.json().get("status", answer.json().get("code")) in ("creating", "no_capacity")
    said = await server.log_after_stop()
    assert server.process.returncode == 0, said[-2000:]
    assert json.loads(said.splitlines()[-1])["event"] == "server ended"
    with pytest.raises(httpx.ConnectError):
        await server.client.get("/health")


async def _answer(server: Server, path: str) -> Any:
    return (await server.client.get(path)).json()


async def _refusal(server: Server) -> httpx.Response | None:
    ready = await server.client.get("/readyz")
    return ready if ready.status_code == 503 else None


async def test_no_secret_reaches_a_log(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    client = server.client
    async with (
        FakeHypervisor() as hypervisor,
        fake_worker(
            hypervisor,
            worker_id="wk-1",
            control_url=str(client.base_url),
            join_token=JOIN_TOKEN,
            data_dir=tmp_path / "worker",
        ),
    ):
        made = await client.post("/api/sandboxes", json={"envs": {"PASSWORD": "env-secret-value"}})
        assert made.status_code == 201
        sandbox, token = made.json()["sandboxID"], made.json()["token"]
        organisation = (await client.post("/admin/orgs", json={"name": "o"})).json()
        keys = f"/admin/orgs/{organisation['id']}/keys"
        key = (await client.post(keys, json={}, headers={"Idempotency-Key": "k"})).json()["key"]
        for method, path, headers in (
            ("GET", f"/api/sandboxes?api_key={key}", {}),
            ("GET", f"/api/sandboxes?API_KEY={BOOTSTRAP_KEY}", {}),
            ("GET", f"/admin/orgs?key={BOOTSTRAP_KEY}", {}),
            ("GET", f"/sandboxes/{sandbox}/files/list?token={token}&signature=signed-secret", {}),
            ("GET", f"/api/sandboxes/{key}", {"X-API-Key": key}),
            ("GET", "/nope", {"Authorization": f"Bearer {token}", "Cookie": "c=cookie-secret"}),
            ("POST", f"/sandboxes/{sandbox}/exec/run", {"X-API-Key": token}),
        ):
            await client.request(method, path, headers=headers)
    server.process.send_signal(signal.SIGTERM)
    captured = capfd.readouterr()
    logged = await server.log_after_stop() + captured.out + captured.err
    assert "/sandboxes/{id}/files/list" in logged
    for secret in (
        *(key, token, BOOTSTRAP_KEY, JOIN_TOKEN, MASTER_SECRET),
        *("signed-secret", "cookie-secret", "env-secret-value"),
    ):
        assert secret not in logged


def _free_port() -> int:
    with create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def _until_ready(client: httpx.AsyncClient) -> None:
    async def is_ready() -> bool:
        try:
            return (await client.get("/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    await eventually(is_ready, what="the server to be ready", within_s=90)
