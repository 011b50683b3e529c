"""The fleet runs itself: workers come as load rises, and leave by live migration as it falls."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from tests.acceptance.live_fleet import LiveFleet, start_fleet, wait_until

from sandfleet.testing.disposable_fleets import disposable_directory
from sandfleet_sdk import Client, NoCapacity, Sandbox

pytestmark = pytest.mark.timeout(900)
SIZE_MIB = 512
SHARE_MIB = 2 * SIZE_MIB
COMES_WITHIN_S = 180.0
GOES_WITHIN_S = 240.0
MINUTES = float(os.environ.get("SANDFLEET_AUTOSCALE_MINUTES", "10"))
LOOP = "n=0; while true; do n=$((n+1)); echo $n > /workspace/count; sleep 0.2; done"
COUNTS = f"setsid sh -c '{LOOP}' >/dev/null 2>&1 </dev/null & echo begun"
BOOT = "cat /proc/sys/kernel/random/boot_id"


@dataclass
class Town:
    """A fleet that may have workers by itself, and who lives there."""

    fleet: LiveFleet
    client: Client
    most: int
    living: list[str] = field(default_factory=list)

    def settle(self) -> Sandbox:
        """Have one more sandbox, which may wait for a worker to come."""
        deadline = time.monotonic() + COMES_WITHIN_S
        while True:
            try:
                sandbox = self.client.sandboxes.create(memory_mib=SIZE_MIB, timeout_s=0)
            except NoCapacity:
                # On a slow machine a worker may take longer to come than a create waits.
                assert time.monotonic() < deadline, "no worker came"
            else:
                self.living.append(sandbox.id)
                return sandbox

    def leave(self, sandbox_id: str) -> None:
        """End one."""
        self.client.sandboxes.kill(sandbox_id)
        self.living.remove(sandbox_id)

    def workers(self) -> dict[str, set[str]]:
        """Return who lives on each worker that serves."""
        return {
            one.id: set(one.raw["sandboxes"]) for one in self.client.fleet.workers() if one.state == "ready"
        }

    def home_of(self, sandbox_id: str) -> str:
        """Return the worker of a sandbox."""
        return next(name for name, here in self.workers().items() if sandbox_id in here)

    def launched(self) -> set[str]:
        """Return the workers that the fleet has begun by itself, from their order to their end."""
        return {one["id"] for one in self.fleet.status()["workers"] if one["launched"]}

    def said(self, loop: str) -> list[str]:
        """Return what a loop has said that it did, in the order in which it did."""
        lines = (self.fleet.data_dir / "logs" / "server.log").read_text().splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return [str(one["did"]) for one in events if one.get("loop") == loop and "did" in one]


@contextmanager
def a_town(*, most: int, calm_s: float, reserve: int = 0) -> Iterator[Town]:
    with disposable_directory("sandfleet-autoscale") as data_dir:
        options = ("--workers", "1", "--workers-max", str(most), "--memory", str(most * SHARE_MIB))
        patience = ("--calm", str(calm_s), "--idle-reserve", str(reserve))
        fleet = start_fleet(data_dir, *options, *patience)
        try:
            with Client(fleet.url, fleet.api_key) as client:
                town = Town(fleet, client, most)
                # On a slow machine the first worker may have come so late that another was begun.
                wait_until(
                    lambda: len(town.workers()) == max(1, reserve),
                    timeout_s=GOES_WITHIN_S,
                    what="the fleet to have what it is to have when nobody is there",
                )
                yield town
        finally:
            fleet.down()


def test_a_worker_comes_with_the_load_and_leaves_by_live_migration_when_it_falls() -> None:
    with a_town(most=2, calm_s=8.0) as town:
        (kept,) = town.workers()
        first, second = town.settle().id, town.settle().id
        assert town.workers() == {kept: {first, second}}
        third = town.settle().id
        (came,) = town.launched()
        assert town.home_of(third) == came
        boot = _busy(town.client, third)
        town.leave(first)

        wait_until(lambda: town.home_of(third) == kept, timeout_s=GOES_WITHIN_S, what="the move home")
        wait_until(lambda: not town.launched(), timeout_s=GOES_WITHIN_S, what="the end of the worker")
        assert town.workers() == {kept: {second, third}}
        kept_by_it = town.fleet.data_dir / "workers" / came
        wait_until(lambda: not kept_by_it.exists(), timeout_s=60, what="the end of what the worker kept")
        _still_busy(town.client, third, boot)
        said = town.said("capacity")
        assert any("LaunchMachine" in one and "2 wanted (2 occupied" in one for one in said), said
        assert any("DrainWorker" in one for one in said), said
        assert any("RemoveWorker" in one for one in said), said


def _busy(client: Client, sandbox_id: str) -> str:
    """Have something run in it; return the identity of its boot."""
    client.commands.run(sandbox_id, COUNTS)
    return client.commands.run(sandbox_id, BOOT).stdout


def _still_busy(client: Client, sandbox_id: str, boot: str) -> None:
    """It was never restarted, and what ran in it runs on."""
    assert client.commands.run(sandbox_id, BOOT).stdout == boot

    def count() -> int:
        return int(client.commands.run(sandbox_id, "cat /workspace/count").stdout or 0)

    before = count()
    wait_until(lambda: count() > before, timeout_s=60, what="its program to go on")


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_alternating_load_makes_the_fleet_breathe_and_never_thrash() -> None:
    """A high and a low load by turns, shorter than the fleet's patience; then a low one for good."""
    high, low, calm_s = 4, 1, 90.0
    with a_town(most=4, calm_s=calm_s, reserve=1) as town, _watched(town) as seen:
        until, rounds = time.monotonic() + 60 * MINUTES, 0
        while time.monotonic() < until:
            rounds += 1
            for _ in range(high - len(town.living)):
                town.settle()
            wait_until(
                lambda: _reserve(town) >= 1, timeout_s=COMES_WITHIN_S, what="the reserve to be refilled"
            )
            assert _queue(town) == 0
            _hold(calm_s / 3)
            for sandbox_id in town.living[low:]:
                town.leave(sandbox_id)
            _hold(calm_s / 3)
        begun = seen.launched
        wait_until(
            lambda: len(town.workers()) == 1 + 1, timeout_s=4 * GOES_WITHIN_S, what="the calm to be noticed"
        )
        print(f"{rounds} rounds: {begun} launched in all, {seen.most} workers at most")
        # Enough for the high load and the reserve, each begun once; none is begun after the first had gone.
        assert begun <= 3, town.said("capacity")
        assert seen.launched == begun
        _all_explained(town)


@dataclass
class Seen:
    """What a second thread saw of the fleet."""

    names: set[str] = field(default_factory=set)
    most: int = 0

    @property
    def launched(self) -> int:
        """How many workers the fleet has begun since it is watched."""
        return len(self.names)


@contextmanager
def _watched(town: Town) -> Iterator[Seen]:
    seen, is_over = Seen(), threading.Event()

    def watch() -> None:
        while not is_over.wait(1.0):
            state = json.loads((town.fleet.data_dir / "state.json").read_text())
            workers = [one for one in state["services"] if one["kind"] == "worker"]
            seen.names |= {one["name"] for one in workers if one["isLaunched"]}
            seen.most = max(seen.most, len(workers))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()


def _reserve(town: Town) -> int:
    return sum(not here for here in town.workers().values())


def _queue(town: Town) -> float:
    with town.fleet.client() as http:
        text = http.get("/metrics").text
    name = "sandfleet_create_queue_length "
    return next(float(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name))


def _hold(seconds: float) -> None:
    """Let a load stand for a while: that is what the test is about."""
    time.sleep(seconds)


def _all_explained(town: Town) -> None:
    """Every decision has its reason: of the fleet, of each placement, and of what was passed over."""
    decided = [one for one in town.said("capacity") if one != "another replica leads"]
    assert decided
    assert not [one for one in decided if ": " not in one]
    for sandbox_id in town.living:
        why = town.client.sandboxes.placement(sandbox_id)
        assert why.reason
        assert why.candidates
        assert all(one.reason for one in why.candidates)
    plan = town.client.fleet.plan("tick")
    assert "wanted" in plan.summary
    assert all(one.reason for one in (*plan.decisions, *plan.rejected))
