"""Two servers, two workers, and everything that can befall them, for minutes; `make chaos`.

`SANDFLEET_CHAOS_MINUTES` sets how long (10), `SANDFLEET_CHAOS_SEED` the order of the faults (random and
printed), `SANDFLEET_CHAOS_DIR` where history and report go. `python -m sandfleet.testing.check_history`
judges a history again.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.acceptance.census import Census, leaks, rows, take_census
from tests.acceptance.chaos.faults import BY_LEADER, Round, commit, rounds
from tests.acceptance.chaos.report import Report
from tests.acceptance.chaos.terms import TermWatch, watching
from tests.acceptance.chaos.victims import Victims
from tests.acceptance.live_fleet import LiveFleet, wait_until

from sandfleet.testing.histories.judgement import judge
from sandfleet.testing.histories.records import parse

MINUTES = float(os.environ.get("SANDFLEET_CHAOS_MINUTES", "10"))
PROCESSES, CLIENTS = 2, 2
ENDS_WITHIN_S = 420
SETTLES_WITHIN_S = 180
SNAPSHOTS = "SELECT id FROM snapshots"
LOST = (
    "SELECT id || ' ' || state || ' ' || coalesce(error_message, '') FROM sandboxes "
    "WHERE state IN ('error', 'failed')"
)
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(MINUTES * 60 + 1500)]


def test_nothing_is_lost_or_doubled_whatever_befalls_the_fleet(twin_fleet: LiveFleet) -> None:
    seed = int(os.environ.get("SANDFLEET_CHAOS_SEED") or random.SystemRandom().randrange(10**6))
    kept = Path(os.environ.get("SANDFLEET_CHAOS_DIR") or tempfile.mkdtemp(prefix="chaos-", dir="/var/tmp"))
    history = kept / f"history-{seed}.jsonl"
    history.unlink(missing_ok=True)
    report = Report(seed, MINUTES)
    print(f"\nchaos: seed {seed}, history and report in {kept}", flush=True)
    before, snapshots, lost = take_census(twin_fleet), rows(twin_fleet, SNAPSHOTS), rows(twin_fleet, LOST)
    with watching(twin_fleet.setting("postgres_url"), history) as watch:
        clients = [_start_clients(twin_fleet, history, seed, number) for number in range(PROCESSES)]
        try:
            _torment(twin_fleet, rounds(seed), report, watch)
            twin_fleet.wait_healthy(timeout_s=300)
            for client in clients:
                report.add(_findings_of(client))
        finally:
            for client in clients:
                client.kill()
                client.wait()
    report.lost = sorted(rows(twin_fleet, LOST) - lost)
    report.leaks = _settled_leaks(twin_fleet, before, snapshots)
    judgement = judge(parse(history.read_text().splitlines()))
    report.history, report.is_linearizable = judgement.describe(), judgement.is_linearizable
    report.write(kept / f"report-{seed}.json")
    print(report.describe(), flush=True)
    assert sum(report.calls.values()) > 0, "the clients called nothing"
    assert not report.offences, "\n".join([report.describe(), *report.offences])


def _torment(fleet: LiveFleet, schedule: Iterator[Round], report: Report, watch: TermWatch) -> None:
    victims = Victims(fleet)
    ends_at = time.monotonic() + MINUTES * 60
    with ThreadPoolExecutor(2) as pool:
        while time.monotonic() < ends_at:
            this = next(schedule)
            time.sleep(this.quiet_s)
            had_standby = victims.have_standby()
            hurt_at = time.time()
            for fault in this.faults:
                print(f"chaos: {hurt_at:.1f} {fault}", flush=True)
                report.faults[fault.kind] += 1
            for done in [pool.submit(commit, fault, victims) for fault in this.faults]:
                done.result()
            if {fault.kind for fault in this.faults} & BY_LEADER:
                seconds = _next_leader(hurt_at, this, report, watch)
                # How long it took counts where somebody was left to lead.
                if seconds is not None and had_standby and len(this.faults) == 1:
                    report.failovers_s.append(seconds)


def _next_leader(hurt_at: float, this: Round, report: Report, watch: TermWatch) -> float | None:
    """Return after how long another led; note it if none did."""
    try:
        wait_until(lambda: watch.failover_s(hurt_at) is not None, timeout_s=60, what="a new leader")
    except AssertionError:
        report.leaderless_after.append(str(this))
    return watch.failover_s(hurt_at)


def _start_clients(fleet: LiveFleet, history: Path, seed: int, number: int) -> subprocess.Popen[str]:
    options = {
        "--url": fleet.url,
        "--key": fleet.api_key,
        "--name": f"p{number}",
        "--seed": str(seed),
        "--clients": str(CLIENTS),
        "--history": str(history),
    }
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.acceptance.chaos.load",
            *(part for pair in options.items() for part in pair),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def _findings_of(client: subprocess.Popen[str]) -> dict[str, object]:
    output, _ = client.communicate(timeout=ENDS_WITHIN_S)
    assert client.returncode == 0, f"clients ended with {client.returncode}"
    findings: dict[str, object] = json.loads(output)
    return findings


def _settled_leaks(fleet: LiveFleet, before: Census, snapshots: frozenset[str]) -> dict[str, list[str]]:
    """Return what remains when everything has had its time: operations of a take-over among it."""
    deadline = time.monotonic() + SETTLES_WITHIN_S
    while True:
        remains = leaks(before, take_census(fleet), fleet)
        if kept := rows(fleet, SNAPSHOTS) - snapshots:
            remains["snapshots"] = sorted(kept)
        if not remains or time.monotonic() > deadline:
            return remains
        time.sleep(1)
