"""Two steps of the demo: a sandbox leaves its worker while it works, and its worker dies."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from sandfleet.local.demo_report import NotVerified
from sandfleet.local.demo_tour import BOOT_ID, Tour, require
from sandfleet.local.processes import is_alive, send_signal
from sandfleet.local.state import ServiceState, read_state
from sandfleet_sdk import ExecResult, SandfleetError

_BACK_WITHIN_S = 60.0
_COUNTED_WITHIN_S = 120.0
_TICKER = (
    "setsid sh -c 'while :; do cut -d\" \" -f1 /proc/uptime >> /tmp/ticks; sleep 0.1; done' >/dev/null 2>&1 &"
)
_GAP_S_MAX = 2.0
_WRITTEN, _STOP = "/workspace/counted", "/workspace/enough"
_COUNT_MAX = 5000
"""The program ends by itself, however the demo does."""
_COUNTER = f"""
import os, time
held = b""
with open("{_WRITTEN}", "wb") as file:
    for number in range({_COUNT_MAX}):
        line = b"%d\\n" % number
        held += line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
        print(number, flush=True)
        if os.path.exists("{_STOP}"):
            break
        time.sleep(0.03)
with open("{_WRITTEN}", "rb") as file:
    assert file.read() == held
"""


def moved(tour: Tour) -> list[str]:
    """Move the sandbox while a program in it writes memory and disk and tells its output to a client."""
    boot, home = tour.run(BOOT_ID).stdout, _home(tour)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(tour.client.commands.run, tour.first, "python3", args=["-c", _COUNTER])
        try:
            tour.wait_for(f"test $(wc -l < {_WRITTEN}) -ge 5")
            with tour.measured("move to another worker, in all"):
                move = tour.client.sandboxes.migrate(tour.first)
            counted_there = int(tour.run(f"wc -l < {_WRITTEN}").stdout)
            tour.wait_for(f"test $(wc -l < {_WRITTEN}) -ge {counted_there + 5}")
        finally:
            tour.client.files.write(tour.first, _STOP, b"")
        counted = _whole_count(running.result(timeout=_COUNTED_WITHIN_S))
    tour.report.measured["in which it stood still"] = move.downtime_ms
    tour.run("sync; echo 3 | sudo tee /proc/sys/vm/drop_caches")
    on_disk = tour.run(f"cat {_WRITTEN}").stdout
    require(on_disk.split() == [str(number) for number in range(counted)], "the disk has other numbers")
    require(tour.run(BOOT_ID).stdout == boot, "the sandbox was booted anew")
    require(_home(tour) == move.target_worker != home, f"it is at {_home(tour)}, not at its target")
    return [
        f"$ sandfleet migrate {tour.first[:8]}  ->  from {home} to {move.target_worker}, "
        f"standing still for {move.downtime_ms} ms",
        f"its program counted to {counted - 1} meanwhile: output, memory and disk have every number",
    ]


def _whole_count(ran: ExecResult) -> int:
    """Return how many numbers were told: all from 0 on, each once, in order."""
    require(ran.exit_code == 0, f"the program ended with {ran.exit_code}: {ran.stderr.strip()[-300:]}")
    numbers = [int(line) for line in ran.stdout.split()]
    require(numbers == list(range(len(numbers))), "a number is missing in the output")
    return len(numbers)


def worker_killed(tour: Tour) -> list[str]:
    """Kill the process of the sandbox's worker."""
    tour.run(_TICKER)
    boot = tour.run(BOOT_ID).stdout
    tour.wait_for("test $(wc -l < /tmp/ticks) -ge 3")
    before = _worker(tour, _home(tour))
    require(before.process is not None and is_alive(before.process), "no worker process is recorded")
    if before.process is not None:
        send_signal(before.process, signal.SIGKILL)
    with tour.measured("worker killed -9 until the sandbox answers"):
        _until_answers(tour)
    after = _until_restarted(tour, before)
    require(tour.run(BOOT_ID).stdout == boot, "the sandbox was booted anew")
    gap_s = _longest_gap_s(tour.run("sleep 0.5; cat /tmp/ticks").stdout)
    require(gap_s < _GAP_S_MAX, f"the running program stood still for {gap_s:.1f} s")
    return [
        f"$ kill -9 {before.process.pid if before.process else '?'} (the worker); "
        f"the supervisor started {after.process.pid if after.process else '?'}",
        f"same boot, same program still running; it never paused longer than {gap_s:.2f} s",
    ]


def _home(tour: Tour) -> str:
    """Return the worker that the first sandbox is on."""
    for worker in tour.client.fleet.workers():
        if tour.first in worker.raw["sandboxes"]:
            return worker.id
    raise NotVerified(f"no worker says that it has {tour.first}")


def _worker(tour: Tour, name: str) -> ServiceState:
    state = read_state(tour.layout)
    worker = state.service(name) if state else None
    if worker is None:
        raise NotVerified(f"worker {name} is not recorded")
    return worker


def _until_answers(tour: Tour) -> None:
    deadline = time.monotonic() + _BACK_WITHIN_S
    while True:
        try:
            tour.run("true")
            return
        except SandfleetError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _until_restarted(tour: Tour, before: ServiceState) -> ServiceState:
    deadline = time.monotonic() + _BACK_WITHIN_S
    while True:
        worker = _worker(tour, before.name)
        if worker.is_alive and worker.process != before.process:
            return worker
        require(time.monotonic() < deadline, "the worker was not started again")
        time.sleep(0.1)


def _longest_gap_s(ticks: str) -> float:
    moments = [float(line) for line in ticks.split()]
    require(len(moments) > 5, "the program in the sandbox left no trace")
    return max(later - earlier for earlier, later in pairwise(moments))
