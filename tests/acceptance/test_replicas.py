"""Two servers behind HAProxy, as any client sees them: whichever ends, and how, nothing fails.

The short form of `test_two_servers.py` and `test_chaos.py`, for every run of the tests.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from opencomputer import Sandbox
from tests.acceptance.chaos.terms import read_term
from tests.acceptance.chaos.victims import Victims
from tests.acceptance.live_fleet import COMMAND, LiveFleet, wait_until

from sandfleet_sdk import AsyncClient, Client

pytestmark = [
    pytest.mark.timeout(600),
    # The published client leaves closing its sockets to the collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
FAIL_OVER_S_MAX = 45.0
"""The promise is five seconds for a machine that is not busy with tests; this bound holds on any."""


def servers(fleet: LiveFleet) -> list[httpx.URL]:
    """Return the addresses of both servers, when both are ready."""
    victims = Victims(fleet)
    found: list[httpx.URL] = []

    def are_ready() -> bool:
        ports = [victims.port_of(process.pid) for process in victims.all("server")]
        found[:] = [httpx.URL(f"http://127.0.0.1:{port}") for port in ports]
        return len(found) == 2 and all(httpx.get(url.join("/readyz")).status_code == 200 for url in found)

    wait_until(are_ready, timeout_s=180, what="both servers to be ready")
    return found


def end(fleet: LiveFleet, number: int, how: signal.Signals) -> None:
    """End one server and return when its successor and the other are ready."""
    process = Victims(fleet).all("server")[number]
    process.send_signal(how)
    wait_until(lambda: not process.is_running(), timeout_s=120, what="the server to end")
    servers(fleet)


def test_what_one_server_makes_the_other_serves(twin_fleet: LiveFleet) -> None:
    one, other = (Client(str(url), twin_fleet.api_key) for url in servers(twin_fleet))
    with one, other:
        for maker, user in ((one, other), (other, one)):
            sandbox = maker.sandboxes.create()
            assert user.commands.run(sandbox.id, "echo here").stdout == "here\n"
            user.sandboxes.kill(sandbox.id)
            assert maker.sandboxes.get(sandbox.id).status == "stopped"


async def test_the_published_client_through_the_balancer(twin_fleet: LiveFleet) -> None:
    sandbox = await Sandbox.create(api_key=twin_fleet.api_key, api_url=twin_fleet.url, timeout=300)
    try:
        result = await sandbox.exec.run("echo hello from $(whoami)")
        assert (result.exit_code, result.stdout) == (0, "hello from sandbox\n")
        content = os.urandom(3_000_000)
        await sandbox.files.write("/tmp/big", content)
        assert await sandbox.files.read_bytes("/tmp/big") == content
        said: list[bytes] = []
        session = await sandbox.exec.start(
            "sh", args=["-c", "read line; echo got $line"], on_stdout=said.append
        )
        await session.send_stdin("a line\n")
        assert await asyncio.wait_for(session.done, 120) == 0
        assert b"".join(said) == b"got a line\n"
    finally:
        await sandbox.kill()
        await sandbox.close()


def test_whatever_ends_a_server_costs_a_client_that_repeats_nothing(twin_fleet: LiveFleet) -> None:
    servers(twin_fleet)
    ended = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        users = [pool.submit(_use, twin_fleet, ended) for _ in range(2)]
        try:
            _end_both(twin_fleet)
        finally:
            ended.set()
        calls = [user.result(timeout=200) for user in users]
    assert min(calls) > 0


def _use(fleet: LiveFleet, ended: threading.Event) -> int:
    """Use a sandbox until told to end; any error is the caller's."""
    calls = 0
    with Client(fleet.url, fleet.api_key) as client:
        sandbox = client.sandboxes.create()
        while not ended.is_set():
            assert client.commands.run(sandbox.id, f"echo {calls}").stdout == f"{calls}\n"
            calls += 1
        client.sandboxes.kill(sandbox.id)
    return calls


async def test_a_session_goes_on_through_the_other_server(twin_fleet: LiveFleet) -> None:
    """Both are ended while it counts, so that whichever carried it was among them."""
    await asyncio.to_thread(servers, twin_fleet)
    async with AsyncClient(twin_fleet.url, twin_fleet.api_key) as client:
        sandbox = await client.sandboxes.create()
        counting = ["-c", "for n in $(seq 40); do echo $n; sleep 0.5; done"]
        session = await client.sessions.start(sandbox.id, "sh", args=counting)
        said: list[bytes] = []
        async with client.sessions.attach(sandbox.id, session.id) as attached, asyncio.TaskGroup() as group:
            ending = group.create_task(asyncio.to_thread(_end_both, twin_fleet))
            async for chunk in attached:
                said.append(chunk.data)
            await ending
        await client.sandboxes.kill(sandbox.id)
    assert b"".join(said).decode().split() == [str(n) for n in range(1, 41)]


def _end_both(fleet: LiveFleet) -> None:
    """One in good order, then the other by force."""
    end(fleet, 0, signal.SIGTERM)
    end(fleet, 1, signal.SIGKILL)


def test_a_create_whose_server_dies_is_one_sandbox_for_who_asks_again(twin_fleet: LiveFleet) -> None:
    one, other = servers(twin_fleet)
    headers = {"X-API-Key": twin_fleet.api_key, "Idempotency-Key": os.urandom(8).hex()}
    with httpx.Client(headers=headers, timeout=60) as http, ThreadPoolExecutor(1) as pool:
        before = len(http.get(other.join("/api/sandboxes")).json())
        first = pool.submit(http.post, one.join("/api/sandboxes"), json={})
        time.sleep(0.03)
        Victims(twin_fleet).all("server")[0].kill()
        began = time.monotonic()
        answer = http.post(other.join("/api/sandboxes"), json={})
        took_s = time.monotonic() - began
        assert answer.status_code == 201, answer.text
        identity = answer.json()["sandboxID"]
        if first.exception(timeout=60) is None:
            assert first.result().json()["sandboxID"] == identity
        assert len(http.get(other.join("/api/sandboxes")).json()) == before + 1
        assert took_s < 60
        http.delete(other.join(f"/api/sandboxes/{identity}"))
    servers(twin_fleet)


def test_another_leads_soon_after_the_leader_was_killed(twin_fleet: LiveFleet) -> None:
    servers(twin_fleet)
    before = _term(twin_fleet)
    began = time.monotonic()
    Victims(twin_fleet).leader().kill()
    wait_until(lambda: _term(twin_fleet) > before, timeout_s=60, what="another leader", every_s=0.05)
    assert time.monotonic() - began < FAIL_OVER_S_MAX
    servers(twin_fleet)


def _term(fleet: LiveFleet) -> int:
    return asyncio.run(read_term(fleet.setting("postgres_url"))).number


def test_both_servers_away_and_back_again_touch_no_sandbox(twin_fleet: LiveFleet) -> None:
    servers(twin_fleet)
    with Client(twin_fleet.url, twin_fleet.api_key) as client:
        sandbox = client.sandboxes.create()
        boot = client.commands.run(sandbox.id, "sleep 1000 & cat /proc/sys/kernel/random/boot_id").stdout
        for process in Victims(twin_fleet).all("server"):
            process.kill()
        servers(twin_fleet)
        again = client.commands.run(sandbox.id, "pgrep -c sleep; cat /proc/sys/kernel/random/boot_id").stdout
        assert again == f"1\n{boot}"
        client.sandboxes.kill(sandbox.id)


@pytest.mark.chaos  # not for its faults but for its length: servers and workers restart twice
def test_only_an_empty_worker_is_taken_out_of_a_fleet_that_runs(twin_fleet: LiveFleet) -> None:
    servers(twin_fleet)
    last = twin_fleet.status()["workers"][-1]["id"]
    with Client(twin_fleet.url, twin_fleet.api_key) as client:
        # More than half of a worker each: so each has one.
        half_mib = min(one.memory_total_mib for one in client.fleet.workers()) * 6 // 10
        made = [client.sandboxes.create(memory_mib=half_mib) for _ in range(2)]
        (there,) = [one for one in made if client.sandboxes.get(one.id).worker_id == last]
        (here,) = [one for one in made if one is not there]
        refused = up(twin_fleet, "--workers", "1")
        assert refused.returncode == 1
        assert "not empty: 1 sandboxes" in refused.stderr
        assert len(twin_fleet.status()["workers"]) == 2
        assert client.commands.run(there.id, "echo here").stdout == "here\n"
        client.sandboxes.kill(there.id)
        wait_until(
            lambda: {one.id: one.sandboxes for one in client.fleet.workers()}[last] == 0,
            timeout_s=60,
            what="the worker to be empty",
        )
        taken_out = up(twin_fleet, "--workers", "1")
        assert taken_out.returncode == 0, taken_out.stderr
        assert [one["id"] for one in twin_fleet.status()["workers"]] != [last]
        assert not list(twin_fleet.data_dir.glob(f"workers/{last}/machines/*"))
        assert client.commands.run(here.id, "echo still").stdout == "still\n"
        client.sandboxes.kill(here.id)
    assert up(twin_fleet, "--workers", "2").returncode == 0
    assert len({one["id"] for one in twin_fleet.status()["workers"]} - {last}) == 2


def up(fleet: LiveFleet, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "up", "--data-dir", str(fleet.data_dir), *options],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
