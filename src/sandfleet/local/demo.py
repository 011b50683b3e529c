"""`demo`: a tour through the main job in which every claim is checked.

Each step is a function that does something, verifies what came of it and returns the
facts to tell. A step that fails ends the tour; the sandboxes are destroyed in any case.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from sandfleet.local.configuration import load_configuration, load_secrets
from sandfleet.local.demo_owner import end_left_sandboxes
from sandfleet.local.demo_report import DemoReport, NotVerified, Say, Step
from sandfleet.local.demo_saved import forked, slept
from sandfleet.local.demo_tour import Tour, require
from sandfleet.local.demo_workers import moved, worker_killed
from sandfleet.local.layout import Layout
from sandfleet.local.machines import count_machines
from sandfleet.local.state import read_state
from sandfleet_sdk import Client, Gone, SandfleetError

_FILE_BYTES = 8 * 2**20
_SAMPLES = 10
_NOTHING_LEFT_WITHIN_S = 30.0


def _create(tour: Tour) -> list[str]:
    sandbox = tour.create("create")
    with tour.measured("first command after it"):
        kernel = tour.run("uname -r").stdout.strip()
    require(kernel != os.uname().release, "the sandbox shows the host's kernel: that is no VM")
    return [
        f"$ sandfleet create  ->  {sandbox}",
        f"its own kernel: Linux {kernel} (the host has {os.uname().release})",
    ]


def _run_python(tour: Tour) -> list[str]:
    program = "import hashlib; print(hashlib.sha256(b'sandfleet' * 10**6).hexdigest())"
    expected = hashlib.sha256(b"sandfleet" * 10**6).hexdigest()
    with tour.measured("python3 -c (starts, computes, ends)"):
        result = tour.client.commands.run(tour.first, "python3", args=["-c", program])
    require(result.stdout.strip() == expected, f"python3 computed {result.stdout!r}, not {expected}")
    times = []
    for _ in range(_SAMPLES):
        begun = time.monotonic()
        tour.run("true")
        times.append((time.monotonic() - begun) * 1000)
    tour.report.measured[f"exec true, median of {_SAMPLES}"] = statistics.median(times)
    return [f"$ sandfleet exec {tour.first[:8]} -- python3 -c …  ->  {expected[:16]}…, as computed here"]


def _tools(tour: Tour) -> list[str]:
    # The web server is for a later step: it has until then to start.
    tour.run("setsid python3 -m http.server 8000 >/dev/null 2>&1 &")
    lines = tour.run(
        "python3 --version; node --version; git --version; jq --version; sudo -n id -un; "
        "command -v npm && command -v pip3 && command -v gcc"
    ).stdout.split("\n")
    require(lines[4] == "root" and lines[1].startswith("v"), f"the tools answered {lines}")
    return [f"nothing to install: {lines[0]}, Node.js {lines[1]}, npm, pip, gcc, git, jq, sudo"]


def _files(tour: Tour) -> list[str]:
    content = secrets.token_bytes(_FILE_BYTES)
    digest = hashlib.sha256(content).hexdigest()
    path = "/workspace/demo/random.bin"
    begun = time.monotonic()
    tour.client.files.write(tour.first, path, content)
    written = time.monotonic()
    inside = tour.run(f"sha256sum {path}").stdout.split()[0]
    read_from = time.monotonic()
    back = tour.client.files.read(tour.first, path)
    read = time.monotonic()
    require(inside == digest, "the bytes in the sandbox differ from those that were written")
    require(hashlib.sha256(back).hexdigest() == digest, "the bytes that came back differ")
    mib = _FILE_BYTES / 2**20
    tour.report.measured["file upload"] = mib / (written - begun)
    tour.report.measured["file download"] = mib / (read - read_from)
    return [f"{mib:.0f} random MiB written, digested inside and read back: sha256 {digest[:16]}… three times"]


def _isolation(tour: Tour) -> list[str]:
    second = tour.create("create another")
    tour.client.files.write(tour.first, "/workspace/secret", "mine")
    require(not tour.client.files.exists(second, "/workspace/secret"), "a file is seen by a stranger")
    ids = {tour.run("cat /etc/machine-id", sandbox=sandbox).stdout for sandbox in (tour.first, second)}
    require(len(ids) == 2, "two sandboxes have one identity")
    tour.wait_for("curl -sf -o /dev/null http://127.0.0.1:8000/")
    with _listener() as (listener, port):
        targets = [("the first sandbox", "10.0.2.15", 8000), *_host_addresses(port)]
        reached = _reached_from(tour, second, [(address, number) for _, address, number in targets])
        for what, address, number in targets:
            require((address, number) not in reached, f"{what} ({address}:{number}) is reached")
        require(not _was_called(listener), "a packet of a sandbox reached the host")
    return [
        f"$ sandfleet create  ->  {second}: another machine id, none of the first one's files",
        f"it cannot reach the first one's web server, nor the host ({len(targets) - 1} addresses tried)",
    ]


def _reached_from(tour: Tour, sandbox: str, targets: list[tuple[str, int]]) -> set[tuple[str, int]]:
    """Try all addresses at once from a sandbox; return those that took a connection."""
    tries = " ".join(
        f"(timeout 2 bash -c ': < /dev/tcp/{address}/{number}' 2>/dev/null && echo {address} {number}) &"
        for address, number in targets
    )
    lines = tour.run(f"{tries} wait", sandbox=sandbox).stdout.splitlines()
    return {(line.split()[0], int(line.split()[1])) for line in lines}


def _destroy(tour: Tour) -> list[str]:
    ended = list(tour.sandboxes)
    with tour.measured("destroy"):
        tour.client.sandboxes.kill(tour.first)
    for sandbox in tour.sandboxes[1:]:
        tour.client.sandboxes.kill(sandbox)
    for sandbox in ended:
        status = tour.client.sandboxes.get(sandbox).status
        require(status == "stopped", f"{sandbox} is {status}, not stopped")
    try:
        tour.client.commands.run(ended[0], "true")
    except Gone:
        pass
    else:
        raise NotVerified("a destroyed sandbox still runs commands")
    tour.sandboxes.clear()
    left = _until_nothing_left(tour)
    return [
        f"$ sandfleet rm …  ->  all {len(ended)} gone, nothing of them left on the host "
        f"({left} VMs stand ready for the next)"
    ]


_STEPS: tuple[tuple[str, Callable[[Tour], list[str]]], ...] = (
    ("A computer in a moment", _create),
    ("Run Python", _run_python),
    ("Install nothing", _tools),
    ("Write and read a file", _files),
    ("Put it to sleep; the next command wakes it", slept),
    ("Fork it, memory and processes included", forked),
    ("Move it to another worker while it works", moved),
    ("Two sandboxes, isolated from each other and from the host", _isolation),
    ("Kill the worker; the sandbox stays", worker_killed),
    ("Destroy, and leave nothing", _destroy),
)


def tour(layout: Layout, *, narrate: Say) -> DemoReport:
    """Take the tour of a running fleet."""
    state = read_state(layout)
    if state is None:
        raise NotVerified("no fleet is running")
    report = DemoReport(steps_planned=len(_STEPS))
    with Client(state.url, load_secrets(layout).bootstrap_key) as client:
        shared = Tour(layout, client, report)
        end_left_sandboxes(client)
        try:
            for number, (title, function) in enumerate(_STEPS, 1):
                step = _taken(title, function, shared)
                report.steps.append(step)
                _narrate(narrate, number, step)
                if step.problem:
                    break
        finally:
            for sandbox in shared.sandboxes:
                with suppress(SandfleetError):
                    client.sandboxes.kill(sandbox)
    return report


def _taken(title: str, function: Callable[[Tour], list[str]], shared: Tour) -> Step:
    begun = time.monotonic()
    try:
        facts, problem = tuple(function(shared)), ""
    except (NotVerified, SandfleetError) as error:
        facts, problem = (), str(error) or type(error).__name__
    return Step(title, time.monotonic() - begun, facts, problem)


def _narrate(narrate: Say, number: int, step: Step) -> None:
    narrate("")
    narrate(f"{number}. {step.title}")
    for fact in step.facts:
        narrate(f"   {fact}")
    outcome = f"NOT verified: {step.problem}" if step.problem else "verified"
    narrate(f"   {outcome} ({step.seconds:.2f} s)")


@contextmanager
def _listener() -> Iterator[tuple[socket.socket, int]]:
    with socket.create_server(("0.0.0.0", 0)) as listener:
        listener.setblocking(False)
        yield listener, int(listener.getsockname()[1])


def _was_called(listener: socket.socket) -> bool:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def _host_addresses(port: int) -> list[tuple[str, str, int]]:
    """Return where the host could be reached from a sandbox: its gateway, its own address."""
    found = [("the host's end of the network", "10.0.2.2", port)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing: it only chooses the address to send from
        found.append(("the host", str(probe.getsockname()[0]), port))
    return found


def _until_nothing_left(tour: Tour) -> int:
    """Wait until this machine's VMs are those of living sandboxes and of the ready pool; return the pool."""
    deadline = time.monotonic() + _NOTHING_LEFT_WITHIN_S
    workers = load_configuration(tour.layout).workers
    while True:
        living = sum(worker.sandboxes for worker in tour.client.fleet.workers())
        count = count_machines(tour.layout)
        if count.owned == living and count.unfinished <= len(workers):
            return count.warm
        require(time.monotonic() < deadline, f"{count.owned} VMs have an owner, of {living} living sandboxes")
        time.sleep(0.1)
