"""What all rows share: a fleet started for the benchmark, and bare clones beside it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.bare_clones import BareClones
from bench.left_floor import FLOOR, end_bed, floor_settings
from sandfleet.adapters.clock import SystemClock
from sandfleet.testing.disposable_fleets import disposable_directory

COMMAND = str(Path(sys.executable).parent / "sandfleet")
MEMORY_BUDGET_MIB = 256 * 1024
"""More than the machine has: idle sandboxes share the template's pages; 200 of them are scaled to 1 GiB."""
COLD_MEMORY_MB = 512
"""Not the default, so that each create makes its own machine. Both sizes have a template and plug nothing."""


SETTLED_S = 0.7
"""A machine of the pool is written down as ready before it has its identity; then it is written again."""


@dataclass(frozen=True, slots=True)
class Bed:
    """The product's side (`http`) and the floor's (`bare`)."""

    data_dir: Path
    url: str
    api_key: str
    http: httpx.AsyncClient
    bare: BareClones

    async def create(self, **body: Any) -> str:
        """Create a sandbox and return its id when it runs."""
        answer = await self.http.post("/api/sandboxes", json=body)
        if answer.status_code != 201:
            raise RuntimeError(f"create: {answer.status_code} {answer.text}")
        return await self.until_running(answer.json())

    async def until_running(self, record: dict[str, Any]) -> str:
        """Return the id of a sandbox that was answered for, when it runs."""
        while record["status"] == "creating":
            await asyncio.sleep(0.05)
            record = (await self.http.get(f"/api/sandboxes/{record['sandboxID']}")).json()
        if record["status"] != "running":
            raise RuntimeError(f"create: {record['status']} {record['errorMsg']}")
        return str(record["sandboxID"])

    async def execute(self, sandbox_id: str, command: str, *args: str) -> None:
        """Run a command to its end and insist that it succeeds."""
        path = f"/api/sandboxes/{sandbox_id}/exec/run"
        answer = await self.http.post(path, json={"cmd": command, "args": list(args)})
        if answer.status_code != 200 or answer.json()["exitCode"] != 0:
            raise RuntimeError(f"exec: {answer.status_code} {answer.text}")

    async def delete(self, sandbox_id: str) -> None:
        """End a sandbox."""
        (await self.http.delete(f"/api/sandboxes/{sandbox_id}")).raise_for_status()

    async def clear(self) -> None:
        """End every sandbox and every bare clone that a row has left."""
        listed = await self.http.get("/api/sandboxes", params={"status": "all", "limit": 1000})
        for one in listed.raise_for_status().json():
            if one["status"] not in ("stopped", "failed", "error"):
                await self.delete(one["sandboxID"])
        await self.bare.hypervisor.end_all()
        await self.wait_machines(int(self.setting("warm_pool_size")))
        await self.wait_pool_filled()

    async def wait_pool_filled(self, *, timeout_s: float = 60.0) -> None:
        """Return when the warm pool is complete and its machines have been left alone for a moment."""
        size = int(self.setting("warm_pool_size"))
        deadline = time.monotonic() + timeout_s
        while self._settled_machines() < size:
            if time.monotonic() > deadline:
                raise RuntimeError("the warm pool did not fill")
            await asyncio.sleep(0.05)

    async def wait_machines(self, count: int, *, timeout_s: float = 120.0) -> None:
        """Return when the worker has at most that many machines."""
        deadline = time.monotonic() + timeout_s
        while len(self._manifests()) > count:
            if time.monotonic() > deadline:
                raise RuntimeError("the machines were not removed")
            await asyncio.sleep(0.2)

    def pid_of(self, sandbox_id: str) -> int:
        """Return the process id of a sandbox's QEMU."""
        (pid,) = [m["process"]["pid"] for m in self._manifests() if m["owner"] == sandbox_id]
        return int(pid)

    def setting(self, name: str) -> str:
        """Return a setting from the files that `up` wrote."""
        for path in sorted(self.data_dir.glob("settings/*.toml")):
            found = re.search(rf'^{name}\s*=\s*"?([^"\n]*)"?$', path.read_text(), re.MULTILINE)
            if found:
                return found.group(1)
        raise LookupError(name)

    def _settled_machines(self) -> int:
        free = [m for m in self._manifests() if m["owner"] is None and m["state"] == "ready"]
        return sum(m["age_s"] >= SETTLED_S for m in free)

    def _manifests(self) -> list[dict[str, Any]]:
        found = []
        now = SystemClock().now().timestamp()
        (machines,) = self.data_dir.glob("workers/*/machines")
        for path in [machines / name / "manifest.json" for name in os.listdir(machines)]:
            try:
                age_s = now - path.stat().st_mtime
                found.append(json.loads(path.read_text()) | {"age_s": age_s})
            except (FileNotFoundError, json.JSONDecodeError):
                continue
        return found


@asynccontextmanager
async def bed() -> AsyncIterator[Bed]:
    """Start everything and take it down again."""
    with _fleet() as (data_dir, status):
        headers = {"X-API-Key": status["apiKey"]}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=120)
        (data_dir / FLOOR).mkdir(mode=0o711)
        async with (
            httpx.AsyncClient(base_url=status["url"], headers=headers, timeout=120, limits=limits) as http,
            BareClones.opened(floor_settings(data_dir)) as bare,
        ):
            yield Bed(data_dir, status["url"], status["apiKey"], http, bare)


@contextmanager
def _fleet() -> Iterator[tuple[Path, dict[str, Any]]]:
    with disposable_directory("sandfleet-bench", end=end_bed) as data_dir:
        run_command("up", "--data-dir", str(data_dir), "--memory", str(MEMORY_BUDGET_MIB))
        yield data_dir, json.loads(run_command("status", "--json", "--data-dir", str(data_dir)))


def run_command(*arguments: str) -> str:
    """Run `sandfleet` and return what it prints."""
    done = subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, timeout=300, env=os.environ, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"sandfleet {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout
