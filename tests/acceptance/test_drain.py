"""A worker full of busy sandboxes is drained while clients work; then one outgrows its worker, and moves."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.acceptance.live_fleet import LiveFleet, find_fleet, start_fleet, wait_until

from sandfleet_sdk import Client, Drain

pytestmark = [pytest.mark.timeout(1800), pytest.mark.chaos]
COUNT = int(os.environ.get("SANDFLEET_DRAIN_COUNT", "20"))
CLIENTS = 4
SIZE_MIB, GROWN_MIB = 512, 2048
DRAINED_BY_S = 1200.0
BUSY = """
import os, time
with open("/workspace/written", "wb") as file:
    for number in range(1, 100_000):
        file.write(b"%d\\n" % number)
        file.flush()
        os.fsync(file.fileno())
        time.sleep(0.5)
"""


@pytest.fixture(scope="module")
def full() -> Iterator[LiveFleet]:
    """One server and two workers, each with room for all sandboxes and two more; or SANDFLEET_DRAIN_DIR's."""
    if standing := os.environ.get("SANDFLEET_DRAIN_DIR"):
        yield find_fleet(Path(standing))
        return
    data_dir = Path(tempfile.mkdtemp(prefix="sandfleet-drain-", dir="/var/tmp"))
    data_dir.chmod(0o755)
    running = start_fleet(data_dir, "--workers", "2", "--memory", str(2 * (COUNT + 2) * SIZE_MIB))
    try:
        yield running
    finally:
        running.down()
        shutil.rmtree(data_dir, ignore_errors=True)


class Work:
    """Clients that call one sandbox after the other and check what they are told, until they are stopped."""

    def __init__(self, fleet: LiveFleet, sandboxes: list[str]) -> None:
        self._fleet = fleet
        self._sandboxes = sandboxes
        self._stopped = threading.Event()
        self.done = 0
        self.slowest_s = 0.0
        self.failures: list[str] = []

    def stop(self) -> None:
        """Have every client end with the call that it is at."""
        self._stopped.set()

    def run(self, number: int) -> None:
        """Be one client, with the retries that the package has by itself."""
        with Client(self._fleet.url, self._fleet.api_key) as client:
            turn = 0
            while not self._stopped.is_set():
                self._call(client, self._sandboxes[number::CLIENTS], turn, f"{number}-{turn}")
                turn += 1

    def _call(self, client: Client, mine: list[str], turn: int, word: str) -> None:
        sandbox_id, began_s = mine[turn % len(mine)], time.monotonic()
        try:
            ran = client.commands.run(
                sandbox_id, f"echo {word} >> /workspace/said; echo {word}", timeout_s=120
            )
            if (ran.exit_code, ran.stdout) != (0, f"{word}\n"):
                self.failures.append(f"{sandbox_id}: {ran.exit_code} {ran.stdout!r} {ran.stderr!r}")
        except Exception as error:  # noqa: BLE001 -- told in the end, with all others
            self.failures.append(f"{sandbox_id}: {error!r}")
        self.done += 1
        self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)


def test_a_worker_is_drained_under_load_and_a_sandbox_outgrows_its_worker(full: LiveFleet) -> None:
    with Client(full.url, full.api_key) as client:
        wait_until(
            lambda: [one.state for one in client.fleet.workers()] == ["ready", "ready"],
            timeout_s=300,
            what="both workers to be ready",
        )
        sandboxes: list[str] = []
        try:
            home, away = _fill(client, sandboxes)
            _drain_under_load(full, client, sandboxes, home=home, away=away)
            _outgrow(client, sandboxes[0], home=home, away=away)
        finally:
            for worker in client.fleet.workers():
                client.fleet.undrain_worker(worker.id)
            for sandbox_id in sandboxes:
                client.sandboxes.kill(sandbox_id)


def _fill(client: Client, sandboxes: list[str]) -> tuple[str, str]:
    """Make busy sandboxes, all on one worker; return it and the other one."""
    first = client.sandboxes.create(memory_mib=SIZE_MIB).id
    sandboxes.append(first)
    home = next(one.id for one in client.fleet.workers() if first in one.raw["sandboxes"])
    away = next(one.id for one in client.fleet.workers() if one.id != home)
    client.fleet.drain_worker(away)  # so that all the others come to the first
    for _ in range(COUNT - 1):
        sandboxes.append(client.sandboxes.create(memory_mib=SIZE_MIB).id)
    for sandbox_id in sandboxes:
        client.files.write(sandbox_id, "/workspace/busy.py", BUSY)
        client.commands.run(
            sandbox_id, "setsid python3 /workspace/busy.py >/dev/null 2>&1 </dev/null & echo begun"
        )
    client.fleet.undrain_worker(away)
    assert _residents(client, home) == set(sandboxes)
    return home, away


def _drain_under_load(full: LiveFleet, client: Client, sandboxes: list[str], *, home: str, away: str) -> None:
    work = Work(full, sandboxes)
    with ThreadPoolExecutor(CLIENTS) as pool:
        for number in range(CLIENTS):
            pool.submit(work.run, number)
        try:
            began_s = time.monotonic()
            drain = _drained(client, home)
            took_s = time.monotonic() - began_s
        finally:
            work.stop()
    print(
        f"{COUNT} busy sandboxes left in {took_s:.0f} s; {work.done} calls of {CLIENTS} clients meanwhile, "
        f"{len(work.failures)} failed, the slowest took {work.slowest_s:.1f} s; a sandbox stood still for "
        f"{_downtime_s(full):.1f} s on average"
    )
    assert work.failures == []
    assert (drain.moved, drain.stays) == (COUNT, ())
    assert _residents(client, home) == set()
    assert _residents(client, away) == set(sandboxes)
    for sandbox_id in sandboxes:
        script = (
            "sync; echo 3 | sudo tee /proc/sys/vm/drop_caches >/dev/null; pkill -f '[b]usy.py'; "
            "awk '$1 != NR {exit 3}' /workspace/written; echo $?"
        )
        assert client.commands.run(sandbox_id, script).stdout.strip() == "0"


def _downtime_s(full: LiveFleet) -> float:
    """Return the mean of all moves, by the server's own count."""
    with full.client() as http:
        text = http.get("/metrics").text
    name = "sandfleet_migration_downtime_seconds"
    total, count = (float(re.search(rf"^{name}_{what} (\S+)$", text, re.M)[1]) for what in ("sum", "count"))
    return total / count


def _drained(client: Client, worker_id: str) -> Drain:
    client.fleet.drain_worker(worker_id)
    wait_until(
        lambda: client.fleet.drain(worker_id).state == "drained",
        timeout_s=DRAINED_BY_S,
        what="the worker to be drained",
        every_s=1.0,
    )
    return client.fleet.drain(worker_id)


def _outgrow(client: Client, sandbox_id: str, *, home: str, away: str) -> None:
    """Ask for more than the full worker has left, in one call."""
    client.fleet.undrain_worker(home)
    began_s = time.monotonic()
    size = client.sandboxes.scale(sandbox_id, GROWN_MIB)
    assert (size.memory_mib, size.raw["migrated"]) == (GROWN_MIB, True)
    wait_until(  # on a slow host the answer is `pending`
        lambda: client.sandboxes.get(sandbox_id).memory_mib == GROWN_MIB, timeout_s=300, what="its new size"
    )
    print(f"grown to {GROWN_MIB} MiB at another worker in {time.monotonic() - began_s:.1f} s")
    seen = client.commands.run(sandbox_id, "awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo").stdout
    assert int(seen) > 0.8 * GROWN_MIB
    assert _residents(client, home) == {sandbox_id}


def _residents(client: Client, worker_id: str) -> set[str]:
    worker = next(one for one in client.fleet.workers() if one.id == worker_id)
    return set(worker.raw["sandboxes"])
