"""A whole fleet under test: started by `sandfleet up` on a directory of its own, as a user would."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

COMMAND = str(Path(sys.executable).parent / "sandfleet")


@dataclass(frozen=True, slots=True)
class LiveFleet:
    """Where the fleet is and how to speak to it."""

    data_dir: Path
    url: str
    api_key: str

    def client(self, *, timeout_s: float = 60.0) -> httpx.Client:
        """Return an HTTP client with the fleet's key. The caller closes it."""
        return httpx.Client(base_url=self.url, headers={"X-API-Key": self.api_key}, timeout=timeout_s)

    def async_client(self, *, timeout_s: float = 60.0) -> httpx.AsyncClient:
        """Return an asynchronous HTTP client with the fleet's key. The caller closes it."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        headers = {"X-API-Key": self.api_key}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=timeout_s, limits=limits)

    def status(self) -> dict[str, Any]:
        """Return what `sandfleet status --json` says."""
        answer: dict[str, Any] = json.loads(_run("status", "--json", "--data-dir", str(self.data_dir)))
        return answer

    def setting(self, name: str) -> str:
        """Return a setting from the files that `up` wrote for its processes; of several, the first."""
        found = self.settings(name)
        if not found:
            raise LookupError(f"no settings file of {self.data_dir} sets {name}")
        return found[0]

    def settings(self, name: str) -> list[str]:
        """Return a setting as each of the files has it that has it."""
        wanted = re.compile(rf'^{name}\s*=\s*"?([^"\n]*)"?$', re.MULTILINE)
        files = sorted(self.data_dir.glob("settings/*.toml"))
        return [found.group(1) for path in files if (found := wanted.search(path.read_text()))]

    def kill_9(self, role: str) -> int:
        """Kill all processes of a role (server, worker, postgres, valkey), as a crash would; return a pid."""
        state = json.loads((self.data_dir / "state.json").read_text())
        pids = [int(service["process"]["pid"]) for service in state["services"] if service["kind"] == role]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return pids[0]

    def wait_healthy(self, *, timeout_s: float = 120.0) -> None:
        """Return when the server is ready and a worker takes sandboxes again; leaves no sandbox behind."""
        probe = _Probe(self)
        wait_until(probe.has_passed, timeout_s=timeout_s, what="the fleet to serve again")

    def down(self) -> None:
        """Stop the fleet and its sandboxes; a fleet that no longer answers is stopped all the same."""
        try:
            _run("down", "--stop-sandboxes", "--data-dir", str(self.data_dir), timeout_s=120)
        finally:
            _run("down", "--data-dir", str(self.data_dir), timeout_s=120)


class _Probe:
    """A sandbox that is made, used and removed; what an attempt began the next one ends."""

    def __init__(self, fleet: LiveFleet) -> None:
        self._fleet = fleet
        self._key = uuid.uuid4().hex
        self._used: str | None = None

    def has_passed(self) -> bool:
        """Try once."""
        with self._fleet.client(timeout_s=15) as http:
            if http.get("/readyz").status_code != 200:
                return False
            if self._used is None:
                self._used = self._use(http)
            return self._used is not None and http.delete(f"/api/sandboxes/{self._used}").status_code == 204

    def _use(self, http: httpx.Client) -> str | None:
        headers = {"Idempotency-Key": self._key}
        made = http.post("/api/sandboxes", json={"timeout": 600}, headers=headers)
        if made.status_code != 201 or made.json()["status"] != "running":
            return None
        identity = str(made.json()["sandboxID"])
        ran = http.post(f"/api/sandboxes/{identity}/exec/run", json={"cmd": "true"})
        return identity if ran.status_code == 200 and ran.json()["exitCode"] == 0 else None


def start_fleet(data_dir: Path, *options: str, environment: dict[str, str] | None = None) -> LiveFleet:
    """Run `sandfleet up` on a directory and return the fleet that it started."""
    _run("up", "--data-dir", str(data_dir), *options, timeout_s=300, environment=environment)
    return find_fleet(data_dir)


def find_fleet(data_dir: Path) -> LiveFleet:
    """Return the fleet that runs on a directory."""
    status = json.loads(_run("status", "--json", "--data-dir", str(data_dir)))
    return LiveFleet(data_dir, status["url"], status["apiKey"])


def wait_until(condition: Callable[[], object], *, timeout_s: float, what: str, every_s: float = 0.2) -> None:
    """Return when the condition holds; connection errors count as not yet."""
    deadline = time.monotonic() + timeout_s
    problem = "it never held"
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except httpx.HTTPError as error:
            problem = repr(error)
        time.sleep(every_s)
    raise AssertionError(f"waited {timeout_s:.0f} s for {what}: {problem}")


def _run(*arguments: str, timeout_s: float = 120, environment: dict[str, str] | None = None) -> str:
    completed = subprocess.run(
        [COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=os.environ | (environment or {}),
        check=False,
    )
    assert completed.returncode == 0, f"{arguments}: {completed.stdout[-3000:]}{completed.stderr[-3000:]}"
    return completed.stdout
