"""A sandbox that works is moved to the other worker and back: its stream goes on, nothing written is lost."""

from __future__ import annotations

import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.acceptance.counting_socket import counting, counting_on_preview
from tests.acceptance.live_fleet import COMMAND, LiveFleet, wait_until

from sandfleet_sdk import ApiError, Client, ExecResult

pytestmark = pytest.mark.timeout(600)
COUNTED_MAX = 100_000
LOAD = """
import os, sys, time
held = bytearray()
with open("/workspace/written", "wb") as file:
    for number in range(1, int(sys.argv[1])):
        line = f"{number}\\n".encode()
        held += line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
        sys.stdout.write(line.decode())
        sys.stdout.flush()
        if os.path.exists("/workspace/stop"):
            break
        time.sleep(0.05)
with open("/workspace/written", "rb") as file:
    sys.exit(0 if file.read() == bytes(held) else 3)
"""


def _worker_of(client: Client, sandbox_id: str) -> str:
    return next(worker.id for worker in client.fleet.workers() if sandbox_id in worker.raw["sandboxes"])


def _command(fleet: LiveFleet, *arguments: str) -> str:
    environment = os.environ | {"SANDFLEET_URL": fleet.url, "SANDFLEET_API_KEY": fleet.api_key}
    done = subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("moves", [2, pytest.param(20, marks=pytest.mark.chaos)])
def test_a_sandbox_is_moved_there_and_back_while_it_works(twin_fleet: LiveFleet, moves: int) -> None:
    with Client(twin_fleet.url, twin_fleet.api_key) as client, ThreadPoolExecutor(1) as pool:
        wait_until(
            lambda: [one.state for one in client.fleet.workers()] == ["ready", "ready"],
            timeout_s=120,
            what="both workers to be ready",
        )
        promised = _promised(client)
        sandbox_id = client.sandboxes.create(memory_mib=512).id
        try:
            client.files.write(sandbox_id, "/workspace/load.py", LOAD)
            load = f"python3 /workspace/load.py {COUNTED_MAX}"
            writing = pool.submit(client.commands.run, sandbox_id, load, timeout_s=500)
            with (
                counting(twin_fleet, client, sandbox_id) as on_session,
                counting_on_preview(twin_fleet, client, sandbox_id) as on_preview,
            ):
                _there_and_back(twin_fleet, client, sandbox_id, moves=moves)
                time.sleep(1)
            for counted in (on_session, on_preview):
                print(f"counted to {counted.reached}, at most {counted.longest_s:.1f} s for a number")
            client.files.write(sandbox_id, "/workspace/stop", b"")
            _check(client, sandbox_id, writing.result(timeout=300))
        finally:
            client.sandboxes.kill(sandbox_id)
        wait_until(
            lambda: all(now <= promised[worker] for worker, now in _promised(client).items()),
            timeout_s=60,
            what="both places to be given back",
        )


def _there_and_back(fleet: LiveFleet, client: Client, sandbox_id: str, *, moves: int) -> None:
    home = _worker_of(client, sandbox_id)
    there = client.sandboxes.migrate(sandbox_id)
    assert (there.source_worker, there.target_worker != home) == (home, True)
    assert there.downtime_ms > 0
    assert client.sandboxes.get(sandbox_id).status == "running"
    assert _worker_of(client, sandbox_id) == there.target_worker
    back = json.loads(_command(fleet, "migrate", sandbox_id, "--to", home, "--json"))
    assert (back["sourceWorker"], back["targetWorker"]) == (there.target_worker, home)
    stood_still_ms = [there.downtime_ms, back["downtimeMs"]]
    while len(stood_still_ms) < moves:
        stood_still_ms.append(client.sandboxes.migrate(sandbox_id).downtime_ms)
    print("stood still for ms:", sorted(stood_still_ms))
    with pytest.raises(ApiError) as refused:
        client.sandboxes.migrate(sandbox_id, home)  # the moves are even: it is there again
    assert refused.value.code == "same_worker"
    assert [one.event for one in client.sandboxes.events(sandbox_id)].count("migrated") == moves


def _check(client: Client, sandbox_id: str, ran: ExecResult) -> None:
    """The stream has every number once and in order, and the disk, read anew, has the same."""
    numbers = [int(line) for line in ran.stdout.split()]
    assert (ran.exit_code, numbers) == (0, list(range(1, len(numbers) + 1)))
    script = "sync; echo 3 | sudo tee /proc/sys/vm/drop_caches >/dev/null; cat /workspace/written"
    assert client.commands.run(sandbox_id, script).stdout == ran.stdout


def _promised(client: Client) -> dict[str, int]:
    """Return the memory that each worker has promised."""
    return {worker.id: worker.raw["committed_memory_mb"] for worker in client.fleet.workers()}
