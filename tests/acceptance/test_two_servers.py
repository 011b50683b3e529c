"""Two servers are one control plane: what one began the other goes on with, whichever ends and how."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psutil
import pytest
from tests.acceptance.chaos.victims import Victims
from tests.acceptance.live_fleet import LiveFleet, wait_until

from sandfleet_sdk import Client, RetryPolicy

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
COUNTING = "for n in $(seq 12); do echo $n; sleep 1; done"
TICKING = "(while sleep 0.5; do date +%s >> /tmp/ticks; done) > /dev/null 2>&1 &"
COUNTED = "".join(f"{n}\n" for n in range(1, 13))


@contextmanager
def _direct(fleet: LiveFleet, number: int) -> Iterator[Client]:
    """Speak to one of the servers and not to what stands before them."""
    process = Victims(fleet).all("server")[number]
    url = f"http://127.0.0.1:{Victims(fleet).port_of(process.pid)}"
    with Client(url, fleet.api_key) as client:
        yield client


def _both_ready(fleet: LiveFleet) -> None:
    def is_ready() -> bool:
        for number in range(2):
            with _direct(fleet, number) as client:
                client.fleet.readiness()
        return True

    def answers() -> bool:
        try:
            return len(Victims(fleet).all("server")) == 2 and is_ready()
        except Exception:  # noqa: BLE001 -- whatever keeps it from answering, it is asked again
            return False

    wait_until(answers, timeout_s=60, what="both servers to be ready")


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0)])
def test_a_sandbox_of_one_server_is_used_through_the_other(
    twin_fleet: LiveFleet, first: int, second: int
) -> None:
    _both_ready(twin_fleet)
    with _direct(twin_fleet, first) as one, _direct(twin_fleet, second) as other:
        sandbox = one.sandboxes.create()
        assert other.commands.run(sandbox.id, "echo here").stdout == "here\n"
        assert one.sandboxes.hibernate(sandbox.id).status == "hibernated"
        assert other.sandboxes.get(sandbox.id).status == "hibernated"
        assert other.commands.run(sandbox.id, "echo again").stdout == "again\n"
        assert one.sandboxes.get(sandbox.id).status == "running"
        other.sandboxes.kill(sandbox.id)
        assert one.sandboxes.get(sandbox.id).status == "stopped"


@pytest.mark.parametrize("number", [0, 1])
def test_a_command_outlives_the_server_that_carries_it(twin_fleet: LiveFleet, number: int) -> None:
    _both_ready(twin_fleet)
    with Client(twin_fleet.url, twin_fleet.api_key) as client, ThreadPoolExecutor(1) as pool:
        sandbox = client.sandboxes.create()
        running = pool.submit(client.commands.run, sandbox.id, COUNTING)
        time.sleep(3)
        Victims(twin_fleet).send("server", number, signal.SIGKILL)
        assert running.result(timeout=120).stdout == COUNTED
        client.sandboxes.kill(sandbox.id)


def test_a_rolling_restart_under_load_costs_no_request(twin_fleet: LiveFleet) -> None:
    _both_ready(twin_fleet)
    ended = threading.Event()
    with ThreadPoolExecutor(3) as pool:
        clients = [pool.submit(_use, twin_fleet, ended) for _ in range(3)]
        try:
            for number in range(2):
                process = Victims(twin_fleet).all("server")[number]
                process.send_signal(signal.SIGTERM)
                _gone(process)
                _both_ready(twin_fleet)
        finally:
            ended.set()
        calls = [client.result(timeout=120) for client in clients]
    assert min(calls) > 0


def test_both_servers_down_and_up_again_touch_no_sandbox(twin_fleet: LiveFleet) -> None:
    _both_ready(twin_fleet)
    patient = RetryPolicy(attempts_max=120, pauses_s_max=60, pause_s_max=1)
    with Client(twin_fleet.url, twin_fleet.api_key, retries=patient) as client:
        sandboxes = [client.sandboxes.create() for _ in range(2)]
        for sandbox in sandboxes:
            client.commands.run(
                sandbox.id, "(while sleep 0.2; do date +%s >> /tmp/ticks; done) > /dev/null 2>&1 &"
            )
        for process in Victims(twin_fleet).all("server"):
            process.kill()
        time.sleep(2)
        _both_ready(twin_fleet)
        for sandbox in sandboxes:
            assert client.sandboxes.get(sandbox.id).status == "running"
            text = client.commands.run(sandbox.id, "cat /tmp/ticks; date +%s").stdout
            ticks = [int(line) for line in text.split()]
            # It went on while nobody was there to see it; a busy machine may make it slow.
            gaps = [later - earlier for earlier, later in itertools.pairwise(ticks)]
            assert max(gaps) <= 10, ticks
            client.sandboxes.kill(sandbox.id)


def _use(fleet: LiveFleet, ended: threading.Event) -> int:
    """Use sandboxes as a client does that was told nothing; return how many calls were answered."""
    calls = 0
    with Client(fleet.url, fleet.api_key) as client:
        while not ended.is_set():
            sandbox = client.sandboxes.create()
            for number in range(3):
                assert client.commands.run(sandbox.id, f"echo {number}").stdout == f"{number}\n"
            client.sandboxes.kill(sandbox.id)
            calls += 5
    return calls


def _gone(process: psutil.Process) -> None:
    wait_until(lambda: not process.is_running(), timeout_s=60, what="the server to end")
