"""A real worker process on a real engine, and a client that speaks for the control plane."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from tests.integration.worker.fake_control_plane import JOIN_TOKEN, FakeControlPlane, a_control_plane
from tests.integration.worker.harness import WORKER_ID, ControlPlaneKey

from sandfleet.images.installed import DEFAULT_IMAGES_DIR
from sandfleet.wire.worker_messages import HeartbeatAnswer, StartVm, StopVm

READY_WITHIN_S = 300
COMMAND = ("sandfleet", "worker", "--settings")


@dataclass
class WorkerProcess:
    """One worker's settings, and the process that serves them now."""

    settings: Path
    log: Path
    plane: FakeControlPlane
    process: asyncio.subprocess.Process
    http: aiohttp.ClientSession
    command: Sequence[str] = COMMAND

    async def start(self, sandbox_id: str, **changes: Any) -> dict[str, Any]:
        order = StartVm(
            **{
                "epoch": 1,
                "template": "base",
                "memory_mib": 1024,
                "cpu_count": 1,
                "disk_mib": 20480,
                **changes,
            }
        )
        return await self._json("PUT", f"/vms/{sandbox_id}", data=msgspec.json.encode(order))

    async def stop(self, sandbox_id: str) -> dict[str, Any]:
        return await self._json("DELETE", f"/vms/{sandbox_id}", data=msgspec.json.encode(StopVm(epoch=1)))

    async def vms(self) -> Any:
        return await self._json("GET", "/vms")

    async def run(
        self,
        sandbox_id: str,
        body: dict[str, Any],
        *,
        verb: str = "run",
        exec_id: str = "",
        epoch: int = 1,
    ) -> Any:
        headers = {"X-Sandfleet-Epoch": str(epoch)}
        headers |= {"X-Sandfleet-Exec-Id": exec_id} if exec_id else {}
        url = f"/sandboxes/{sandbox_id}/exec/{verb}"
        return await self._json("POST", url, data=msgspec.json.encode(body), headers=headers)

    def files(self, method: str, sandbox_id: str, path: str, **more: Any) -> Any:
        return self.http.request(
            method, self._url(f"/sandboxes/{sandbox_id}/files"), params={"path": path}, **more
        )

    async def end(self, *, by_kill: bool) -> int:
        """End the process: by kill -9 or as an operator does."""
        (self.process.kill if by_kill else self.process.terminate)()
        return await asyncio.wait_for(self.process.wait(), 120)

    async def begin_again(self) -> None:
        """Start the next process of the same worker."""
        self.plane.beats.clear()
        self.process = await _spawn(self.settings, self.log, self.command)
        await self.ready()

    async def ready(self) -> None:
        """Return when it has adopted and can start what is asked for."""
        async with asyncio.timeout(READY_WITHIN_S):
            while not (
                self.plane.beats and self.plane.beats[-1].vms is not None and self.plane.beats[-1].templates
            ):
                assert self.process.returncode is None, self.log.read_text()
                await self.plane.heard(len(self.plane.beats) + 1)

    async def order(self, method: str, path: str, body: Any) -> Any:
        """Give an order; return what is answered, whatever it is."""
        return await self._json(method, path, data=msgspec.json.encode(body))

    async def asked(self, method: str, path: str, **more: Any) -> Any:
        """Send a request; return what is answered, whatever it is."""
        return await self._json(method, path, **more)

    async def _json(self, method: str, path: str, **more: Any) -> Any:
        async with self.http.request(method, self._url(path), **more) as answer:
            return await answer.json()

    def _url(self, path: str) -> str:
        return f"{self.plane.beats[-1].http_url}{path}"


@asynccontextmanager
async def a_worker_process(
    data_dir: Path,
    template_dir: Path,
    *,
    warm: int = 0,
    worker_id: str = WORKER_ID,
    command: Sequence[str] = COMMAND,
) -> AsyncIterator[WorkerProcess]:
    """Run a worker; what it leaves on the host is the caller's to remove."""
    picked = random.Random(str(data_dir))
    async with a_control_plane() as plane:
        key = ControlPlaneKey()
        plane.answer = HeartbeatAnswer(term=1, public_keys=key.jwks, heartbeat_interval_s=0.5)
        settings = data_dir / "worker.toml"
        values = {
            "worker_id": worker_id,
            "machine_id": "test",
            "listen_port": 0,
            "control_url": plane.url,
            "join_token": JOIN_TOKEN,
            "data_dir": str(data_dir),
            "images_dir": os.environ.get("SANDFLEET_IMAGES_DIR", str(DEFAULT_IMAGES_DIR)),
            "templates_dir": str(template_dir),
            "network_range": f"10.{picked.randrange(192, 256)}.{picked.randrange(256)}.0/24",
            "uid_first": 400_000 + 1000 * picked.randrange(1000),
            "memory_budget_mib": 6144,
            "warm_pool_size": warm,
        }
        settings.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
        log = data_dir / "worker.log"
        headers = {
            "Authorization": f"Bearer {key.token(valid_s=3600, aud=worker_id)}",
            "X-Sandfleet-Epoch": "1",
        }
        async with aiohttp.ClientSession(headers=headers) as http:
            process = await _spawn(settings, log, command)
            worker = WorkerProcess(
                settings=settings, log=log, plane=plane, process=process, http=http, command=command
            )
            try:
                await worker.ready()
                yield worker
            finally:
                if worker.process.returncode is None:
                    await worker.end(by_kill=False)


async def _spawn(settings: Path, log: Path, command: Sequence[str]) -> asyncio.subprocess.Process:
    with log.open("a") as output:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", *command, str(settings), stdout=output, stderr=output
        )
