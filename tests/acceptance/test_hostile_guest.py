"""Guests that do their worst: the agent answers on, neighbours notice nothing, nothing stays behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.acceptance.census import take_census, wait_for_no_leak
from tests.acceptance.live_fleet import LiveFleet

pytestmark = [pytest.mark.timeout(300)]

GIB = 1024**3
MIB = 1024**2


class Guest:
    """One sandbox, called over HTTP."""

    def __init__(self, http: httpx.Client) -> None:
        made = http.post("/api/sandboxes", json={})
        assert made.status_code == 201, made.text
        self.id: str = made.json()["sandboxID"]
        self._http = http
        self.path = f"/api/sandboxes/{self.id}"

    def run(self, command: str, *, timeout: int = 60) -> dict[str, Any]:
        """Run a shell command and return the answer's body."""
        answer = self._http.post(f"{self.path}/exec/run", json={"cmd": command, "timeout": timeout})
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def out(self, command: str) -> str:
        """Return what a command that succeeds prints."""
        body = self.run(command)
        assert body["exitCode"] == 0, body
        return str(body["stdout"]).strip()

    def put(self, path: str, content: bytes) -> httpx.Response:
        """Write a file."""
        return self._http.put(f"{self.path}/files", params={"path": path}, content=content)

    def get(self, path: str) -> httpx.Response:
        """Read a file."""
        return self._http.get(f"{self.path}/files", params={"path": path})

    def kill(self) -> None:
        """End the sandbox."""
        assert self._http.delete(self.path).status_code == 204


@pytest.fixture(scope="module")
def http(fleet: LiveFleet) -> Iterator[httpx.Client]:
    """A client; afterwards nothing may be left of what this module did."""
    before = take_census(fleet)
    with fleet.client(timeout_s=90) as client:
        yield client
    wait_for_no_leak(before, fleet)


@pytest.fixture(scope="module")
def neighbour(http: httpx.Client) -> Iterator[Guest]:
    """A sandbox that answers quickly all the time."""
    guest = Guest(http)
    yield guest
    guest.kill()


@pytest.fixture
def guest(http: httpx.Client, neighbour: Guest) -> Iterator[Guest]:
    """A sandbox for one misdeed; the neighbour is asked after it."""
    one = Guest(http)
    yield one
    assert neighbour.out("echo unharmed") == "unharmed"
    one.kill()


def test_root_cannot_kill_the_agent(guest: Guest) -> None:
    agent = guest.out("ps -o comm= -p 1")
    assert agent == "osb-agent"
    for number in (9, 15, 19, 2, 1, 11):
        guest.run(f"sudo kill -{number} 1")
    guest.run("sudo pkill -9 osb-agent; sudo pkill -9 -f osb-agent")
    assert guest.out("ps -o comm= -p 1; echo alive") == "osb-agent\nalive"


def test_killing_every_process_of_the_guest_leaves_a_working_sandbox(guest: Guest) -> None:
    guest.run("sudo kill -9 -1")
    assert guest.out("echo alive") == "alive"


def test_a_fork_bomb_is_bounded_and_dies_with_its_command(guest: Guest, neighbour: Guest) -> None:
    bomb = guest.run("b() { b | b & }; b; sleep 600", timeout=6)
    assert bomb["timedOut"]
    begun = time.monotonic()
    assert neighbour.out("echo awake") == "awake"
    assert time.monotonic() - begun < 40
    assert guest.get("/etc/hostname").status_code == 200
    guest.out("while [ $(cat /sys/fs/cgroup/sandbox/pids.current) -ge 20 ]; do sleep 0.1; done")
    assert guest.out("echo alive") == "alive"


def test_a_fork_bomb_in_the_background_does_not_silence_files_nor_kill(guest: Guest) -> None:
    guest.run("python3 -c 'import os\nwhile True:\n  try: os.fork()\n  except OSError: pass' &", timeout=3)
    assert guest.put("/tmp/still", b"served").status_code == 204
    assert guest.get("/tmp/still").content == b"served"


def test_memory_exhaustion_kills_the_eater_and_nothing_else(guest: Guest) -> None:
    program = "a = []\nwhile True: a.append(bytearray(b'x' * 10_000_000))"
    eaten = guest.run(f'python3 -c "{program}"', timeout=150)
    assert eaten["exitCode"] in (-1, 137)
    assert not eaten.get("timedOut")
    assert guest.out("ps -o comm= -p 1") == "osb-agent"


@pytest.mark.parametrize("directory", ["/workspace", "/home/sandbox", "/var/tmp"])
def test_a_full_disk_is_said_and_the_sandbox_goes_on(guest: Guest, directory: str) -> None:
    guest.run(f"sudo dd if=/dev/null of={directory}/old; echo old | sudo tee {directory}/old")
    fill = (
        f"n=$(df --output=avail -k {directory} | tail -1); sudo fallocate -l ${{n}}K {directory}/fill; "
        f"sudo dd if=/dev/zero of={directory}/rest bs=1M count=2000 2>/dev/null; df -k {directory} | tail -1"
    )
    guest.run(fill, timeout=100)
    refused = guest.put(f"{directory}/old", b"n" * 8 * MIB)
    assert (refused.status_code, refused.json()["code"]) == (507, "disk_full")
    assert guest.get(f"{directory}/old").content == b"old\n"
    assert guest.out("echo alive") == "alive"
    guest.out(f"sudo rm {directory}/fill {directory}/rest")
    assert guest.put(f"{directory}/old", b"new").status_code == 204
    assert guest.get(f"{directory}/old").content == b"new"


def test_endless_output_is_cut_and_costs_the_server_nothing_lasting(guest: Guest) -> None:
    flood = guest.run("head -c 40000000 /dev/zero | tr '\\0' y; echo done >&2")
    assert flood["truncated"] is True
    assert len(flood["stdout"]) == 16 * MIB
    assert flood["stderr"] == "done\n"
    assert flood["exitCode"] == 0


def test_a_child_that_keeps_the_pipe_does_not_keep_the_answer(guest: Guest) -> None:
    begun = time.monotonic()
    body = guest.run("sleep 300 & echo parent is done")
    assert (body["exitCode"], body["stdout"]) == (0, "parent is done\n")
    assert time.monotonic() - begun < 60
    assert guest.out("pgrep -xc sleep") == "1"


def test_a_guest_that_crashes_its_kernel_ends_with_a_reason(http: httpx.Client, neighbour: Guest) -> None:
    guest = Guest(http)
    http.post(
        f"{guest.path}/exec/run",
        json={"cmd": "echo o | sudo tee /proc/sysrq-trigger", "timeout": 5},
        timeout=60,
    )
    deadline = time.monotonic() + 120
    while http.get(guest.path).json()["status"] == "running":
        assert time.monotonic() < deadline, "the dead VM was not noticed"
        time.sleep(0.5)
    record = http.get(guest.path).json()
    assert record["status"] in ("error", "stopped")
    assert record["errorMsg"] or record["stopReason"] == "crash"
    answer = http.post(f"{guest.path}/exec/run", json={"cmd": "true"})
    assert answer.status_code == 410
    guest.kill()
    assert neighbour.out("echo unharmed") == "unharmed"


def test_guests_reach_neither_host_nor_each_other_nor_private_networks(
    fleet: LiveFleet, guest: Guest, neighbour: Guest
) -> None:
    server_port = fleet.url.rsplit(":", 1)[1].strip("/")
    # 169.254.169.254 answers on port 80 alone: that is the sandbox's own metadata service.
    targets = [("10.0.2.2", server_port), ("10.0.2.2", "80"), ("10.210.0.1", server_port)]
    targets += [("169.254.169.254", "22"), ("169.254.169.253", "80")]
    targets += [("127.0.0.1", "9"), ("192.168.0.1", "80"), ("172.17.0.1", server_port), ("10.210.0.17", "22")]
    probes = [
        f"(timeout 3 bash -c 'exec 3<>/dev/tcp/{host}/{port}' 2>/dev/null && echo reached {host}:{port}) &"
        for host, port in targets
    ]
    assert guest.out(" ".join([*probes, "wait; echo looked"])) == "looked"


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_file_of_two_gibibytes_goes_in_and_one_byte_more_does_not(http: httpx.Client) -> None:
    guest = Guest(http)
    block = bytes(MIB)

    def blocks(extra: bytes) -> Iterator[bytes]:
        for _ in range(2 * GIB // MIB):
            yield block
        if extra:
            yield extra

    url = f"{guest.path}/files"
    answer = http.put(url, params={"path": "/workspace/two"}, content=blocks(b""), timeout=300)
    assert answer.status_code == 204, answer.text
    assert guest.out("stat -c %s /workspace/two") == str(2 * GIB)
    answer = http.put(url, params={"path": "/workspace/more"}, content=blocks(b"x"), timeout=300)
    assert answer.status_code == 413
    assert guest.run("test -e /workspace/more")["exitCode"] == 1
    guest.kill()
