"""The processes of the fleet under test, found by their records at the moment they are wanted."""

from __future__ import annotations

import json
import re
import signal
import time
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import redis
from tests.acceptance.census import in_own_loop
from tests.acceptance.chaos.terms import Reading, find_term
from tests.acceptance.live_fleet import LiveFleet

_FOUND_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Victims:
    """Who may be hurt."""

    fleet: LiveFleet

    def one(self, role: str, number: int) -> psutil.Process:
        """Return one process of a role, waiting until there is one: an earlier fault may be repaired."""
        deadline = time.monotonic() + _FOUND_WITHIN_S
        while time.monotonic() < deadline:
            if living := self.all(role):
                return living[number % len(living)]
            time.sleep(0.1)
        raise AssertionError(f"no {role} runs for {_FOUND_WITHIN_S:.0f} s")

    def all(self, role: str) -> list[psutil.Process]:
        """Return all processes of a role that run."""
        return [process for one in self._services(role) if (process := _process(one)) is not None]

    def send(self, role: str, number: int, what: signal.Signals) -> None:
        """Send a signal to one process of a role."""
        self.one(role, number).send_signal(what)

    def leader(self) -> psutil.Process:
        """Return the server that holds the newest term; any server while the database cannot be asked."""
        reading: Reading | None = in_own_loop(find_term(self.fleet.setting("postgres_url")))
        if reading is None:
            return self.one("server", 0)
        # A holder is the replica's name and what is its process's own; the first server's name is plain.
        replica = re.match(r"server-\d+", reading.holder)
        name = "server" if replica is None or replica[0] == "server-1" else replica[0]
        found = [process for one in self._services("server", name) if (process := _process(one)) is not None]
        return found[0] if found else self.one("server", 0)

    def have_standby(self) -> bool:
        """Say whether each server is ready: if one is hurt, another is there to lead."""
        try:
            return all(
                httpx.get(f"http://127.0.0.1:{one['port']}/readyz", timeout=2).status_code == 200
                for one in self._services("server")
            )
        except httpx.HTTPError:
            return False

    def send_leader(self, what: signal.Signals) -> None:
        """Send a signal to the leader."""
        self.leader().send_signal(what)

    def send_named(self, name: str, what: signal.Signals) -> None:
        """Send a signal to the process of one service; one that is away is left alone."""
        for one in self._services(name=name):
            process = _process(one)
            if process is not None:
                process.send_signal(what)

    def port_of(self, pid: int) -> int:
        """Return the port on which a process of the fleet listens."""
        for one in self._services():
            if (one.get("process") or {}).get("pid") == pid:
                return int(one["port"])
        raise LookupError(f"{pid} is no service of this fleet")

    @property
    def api_port(self) -> int:
        """The port at which the servers are reached by all others."""
        return int(self.fleet.url.rsplit(":", 1)[1])

    def flush_redis(self) -> None:
        """Empty Redis; one that is away has nothing to lose."""
        client = redis.Redis.from_url(self.fleet.setting("redis_url"), socket_timeout=5)
        try:
            client.flushall()
        except redis.RedisError:
            return
        finally:
            client.close()

    def _services(self, role: str | None = None, name: str | None = None) -> list[dict[str, Any]]:
        state = json.loads((self.fleet.data_dir / "state.json").read_text())
        return [
            one
            for one in state["services"]
            if (role is None or one["kind"] == role) and (name is None or one["name"] == name)
        ]


def _process(service: dict[str, Any]) -> psutil.Process | None:
    pid = (service.get("process") or {}).get("pid")
    try:
        return psutil.Process(pid) if pid is not None else None
    except psutil.NoSuchProcess:
        return None
