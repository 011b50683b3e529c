"""A new version comes to all workers that the fleet launched, under busy sandboxes and a leader that dies."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.acceptance.chaos.victims import Victims
from tests.acceptance.live_fleet import LiveFleet, start_fleet, wait_until
from tests.acceptance.test_drain import BUSY, CLIENTS, SIZE_MIB, Work

from sandfleet_sdk import Client, NoCapacity, Rollout

pytestmark = [pytest.mark.timeout(5400), pytest.mark.chaos]
LAUNCHED = int(os.environ.get("SANDFLEET_ROLLOUT_WORKERS", "9"))
"""Of the workers that one machine has places for, one is always there and one is the surge."""
EACH = int(os.environ.get("SANDFLEET_ROLLOUT_SANDBOXES", "1"))
"""Sandboxes on each worker when all are full."""
SHARE_MIB = EACH * SIZE_MIB + 128
CALM_S = 100
OVER_BY_S = 3600.0


@pytest.fixture(scope="module")
def grown() -> Iterator[LiveFleet]:
    """Two servers, one worker that is always there, and as many launched ones as its load asks for."""
    data_dir = Path(tempfile.mkdtemp(prefix="sandfleet-rollout-", dir="/var/tmp"))
    data_dir.chmod(0o755)
    options = {
        "--servers": 2,
        "--workers": 1,
        "--workers-max": LAUNCHED + 1,
        "--idle-reserve": 0,
        "--calm": CALM_S,
        "--memory": (LAUNCHED + 1) * SHARE_MIB,
    }
    running = start_fleet(data_dir, *(str(part) for pair in options.items() for part in pair))
    try:
        yield running
    finally:
        running.down()
        shutil.rmtree(data_dir, ignore_errors=True)


@pytest.fixture(scope="module")
def sandboxes(grown: LiveFleet) -> Iterator[list[str]]:
    """Busy sandboxes that fill all workers."""
    with Client(grown.url, grown.api_key) as client:
        made = [_busy(client) for _ in range((LAUNCHED + 1) * EACH)]
        wait_until(lambda: len(_launched(client)) == LAUNCHED, timeout_s=300, what="all workers")
        yield made
        for sandbox_id in made:
            client.sandboxes.kill(sandbox_id)


def _busy(client: Client) -> str:
    """Make a sandbox that writes without end; while there is no room a worker comes."""
    made: list[str] = []

    def is_made() -> bool:
        try:
            made.append(client.sandboxes.create(memory_mib=SIZE_MIB).id)
        except NoCapacity:
            return False
        return True

    wait_until(is_made, timeout_s=600, what="room for one more sandbox")
    (sandbox_id,) = made
    client.files.write(sandbox_id, "/workspace/busy.py", BUSY)
    client.commands.run(
        sandbox_id, "setsid python3 /workspace/busy.py >/dev/null 2>&1 </dev/null & echo begun"
    )
    return sandbox_id


def test_all_workers_are_replaced_while_clients_work_and_the_leader_dies(
    grown: LiveFleet, sandboxes: list[str]
) -> None:
    _write_version(grown, "2", "[settings]\nwarm_pool_size = 1\n")
    with Client(grown.url, grown.api_key) as client, _working(grown, sandboxes) as work:
        began_s = time.monotonic()
        number = client.fleet.begin_rollout("2").number
        wait_until(
            lambda: list(_launched(client).values()).count("2") >= 2,
            timeout_s=OVER_BY_S,
            what="the first worker to be replaced",
        )
        Victims(grown).send_leader(signal.SIGKILL)
        now = _over(client, number)
        took_s = time.monotonic() - began_s
        workers = _launched(client)
    print(
        f"{LAUNCHED} workers replaced in {took_s:.0f} s, with {len(sandboxes)} busy sandboxes; "
        f"{work.done} calls of {CLIENTS} clients meanwhile, {len(work.failures)} failed, "
        f"the slowest took {work.slowest_s:.1f} s"
    )
    assert work.failures == []
    assert (now.stage, now.reason) == ("done", "")
    assert [step.stage for step in now.steps] == ["boot_test", "canary", "fleet", "done"]
    assert set(workers.values()) == {"2"}
    _nothing_is_lost(grown, sandboxes)


def test_a_bad_version_is_stopped_at_the_canary_and_turned_back(
    grown: LiveFleet, sandboxes: list[str]
) -> None:
    """It boots, runs a sandbox, and dies for good a little later."""
    is_broken = grown.data_dir / "broken"
    program = grown.data_dir / "dies-later"
    program.write_text(f'#!/bin/sh\n[ -e {is_broken} ] && exit 1\nexec {sys.executable} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    _write_version(grown, "3", f'program = "{program}"\n')
    with Client(grown.url, grown.api_key) as client, _working(grown, sandboxes) as work:
        before = _launched(client)
        number = client.fleet.begin_rollout("3").number
        wait_until(
            lambda: client.fleet.rollout(number).stage != "boot_test", timeout_s=900, what="the canary"
        )
        canary = next(name for name, version in _launched(client).items() if version == "3")
        is_broken.touch()
        Victims(grown).send_named(canary, signal.SIGKILL)
        began_s = time.monotonic()
        now = _over(client, number)
        # It says nothing any more, and goes all the same: nothing was promised there.
        wait_until(lambda: _launched(client) == before, timeout_s=120, what="the end of the canary")
        took_s = time.monotonic() - began_s
    print(
        f"turned back {took_s:.0f} s after its canary died, with {len(sandboxes)} busy sandboxes; "
        f"{work.done} calls of {CLIENTS} clients meanwhile, {len(work.failures)} failed"
    )
    assert work.failures == []
    assert [step.stage for step in now.steps] == ["boot_test", "canary", "turning_back", "turned_back"]
    assert now.reason == f"1 of 1 workers of version 3 are not well: {canary} is unreachable"
    _nothing_is_lost(grown, sandboxes)


@contextmanager
def _working(grown: LiveFleet, sandboxes: list[str]) -> Iterator[Work]:
    work = Work(grown, sandboxes)
    with ThreadPoolExecutor(CLIENTS) as pool:
        for number in range(CLIENTS):
            pool.submit(work.run, number)
        try:
            yield work
        finally:
            work.stop()


def _over(client: Client, number: int) -> Rollout:
    last: list[str] = [""]

    def is_over() -> bool:
        now = client.fleet.rollout(number)
        if now.said != last[0]:
            last[0] = now.said
            print(f"rollout: {time.time():.0f} {now.said}", flush=True)
        return not now.under_way

    wait_until(is_over, timeout_s=OVER_BY_S, what="the end of the roll-out", every_s=1.0)
    return client.fleet.rollout(number)


def _launched(client: Client) -> dict[str, str]:
    """Return the workers that the fleet has launched, with their versions."""
    return {
        one.id: str(one.raw["worker_version"])
        for one in client.fleet.workers()
        if one.id.startswith("wk-launch-") and one.state != "gone"
    }


def _nothing_is_lost(grown: LiveFleet, sandboxes: list[str]) -> None:
    """Every sandbox runs, and what its program wrote is whole: no line is missing, none is there twice."""
    script = "pgrep -f '[b]usy.py' >/dev/null && awk '$1 != NR {exit 3}' /workspace/written; echo $?"
    with Client(grown.url, grown.api_key) as client:
        for sandbox_id in sandboxes:
            assert client.sandboxes.get(sandbox_id).status == "running"
            assert client.commands.run(sandbox_id, script).stdout.strip() == "0"


def _write_version(grown: LiveFleet, name: str, text: str) -> None:
    path = grown.data_dir / "machines" / "versions" / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
