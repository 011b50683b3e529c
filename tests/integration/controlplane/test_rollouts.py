"""Rolling a version out over HTTP: a worker of it comes, is tried with a sandbox of its own, and joins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import eventually

from sandfleet import __version__
from sandfleet.adapters.machines.local_orders import LocalMachinesDirectory, LocalOrder
from sandfleet.testing.fake_hypervisor import FakeHypervisor
from sandfleet.testing.fake_worker import fake_worker

from .conftest import JOIN_TOKEN, Fleet, OpenFleet

pytestmark = pytest.mark.timeout(600)
WITHIN_S = 240.0
"""Several loops have to come round one after the other: half a minute on an idle machine."""
MEMORY_MIB = 8192


def growing(directory: Path) -> dict[str, Any]:
    """Settings of a server that may order machines of this host; the test starts what it orders."""
    size = {"name": "small", "memory_mib": MEMORY_MIB, "cpu_count": 8, "disk_mib": 500_000, "boot_s": 1}
    pool = {
        "kind": "local",
        "directory": str(directory),
        "machines_max": 4,
        "memory_max_mib": 65536,
        "sizes": [size],
    }
    capacity = {"workers_min": 1, "workers_max": 3, "idle_reserve": 0, "launch_pause_s": 0}
    return {"pools": [pool], "capacity": capacity, "rollout": {"canary_s": 0}}


def write_version(directory: Path, name: str) -> None:
    path = directory / "versions" / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def ordered(directory: Path) -> list[LocalOrder]:
    return [one.order for one in LocalMachinesDirectory(directory).machines()]


@asynccontextmanager
async def machine(fleet: Fleet, order: LocalOrder, tmp_path: Path) -> AsyncIterator[FakeHypervisor]:
    """The worker that a machine is."""
    async with (
        FakeHypervisor() as hypervisor,
        fake_worker(
            hypervisor,
            worker_id=order.worker_id,
            control_url=fleet.url,
            join_token=JOIN_TOKEN,
            data_dir=tmp_path / order.worker_id,
            memory_budget_mib=order.memory_mib,
            machine_id=order.launch_id,
            worker_version=order.version,
        ),
    ):
        yield hypervisor


async def stage(fleet: Fleet, *wanted: str) -> dict[str, Any]:
    """Wait until the newest roll-out has come there."""

    seen: list[dict[str, Any]] = []

    async def there() -> bool:
        seen[:] = [(await fleet.client.get("/admin/rollouts")).json()[0]]
        return seen[0]["stage"] in wanted or not seen[0]["underWay"]

    await eventually(there, what=f"the stage {wanted}", within_s=WITHIN_S, every_s=0.2)
    assert seen[0]["stage"] in wanted, seen[0]
    return seen[0]


async def test_a_version_is_booted_tried_and_rolled_out(open_fleet: OpenFleet, tmp_path: Path) -> None:
    """By the server's own loops, with a real worker that runs the trial's command; metrics and log tell."""
    orders = tmp_path / "machines"
    write_version(orders, "2")
    async with open_fleet(**growing(orders)) as fleet:
        begun = await fleet.client.post("/admin/rollouts", json={"version": "2"})
        assert begun.status_code == 201, begun.text
        shown = begun.json()
        assert (shown["version"], shown["previous"], shown["stage"]) == ("2", __version__, "boot_test")
        again = await fleet.client.post("/admin/rollouts", json={"version": "2"})
        assert again.json()["number"] == shown["number"]
        (order,) = await eventually(
            lambda: ordered(orders), what="an order of one machine", within_s=WITHIN_S
        )
        assert (order.version, order.memory_mib) == ("2", MEMORY_MIB)
        async with machine(fleet, order, tmp_path):
            done = await stage(fleet, "done")
            assert [one["stage"] for one in done["steps"]] == ["boot_test", "canary", "fleet", "done"]
            whole = (await fleet.client.get(f"/admin/rollouts/{done['number']}")).json()
            workers = {one["workerID"]: one for one in whole["workers"]}
            assert (workers[order.worker_id]["version"], workers[order.worker_id]["proven"]) == ("2", True)
            metrics = (await fleet.client.get("/metrics")).text
            assert 'sandfleet_rollout{stage="done",version="2"} 1.0' in metrics
            assert 'sandfleet_workers{state="ready",version="2"} 1.0' in metrics
            # Nobody's sandboxes but the tenants' are shown to them, and none of the fleet's own is left.
            assert (await fleet.client.get("/api/sandboxes")).json() == []
            refused = await fleet.client.post("/admin/rollouts", json={"version": "2"})
            assert (refused.status_code, refused.json()["code"]) == (409, "version_runs")


async def test_one_that_is_called_off_turns_back(open_fleet: OpenFleet, tmp_path: Path) -> None:
    orders = tmp_path / "machines"
    write_version(orders, "2")
    async with open_fleet(**growing(orders)) as fleet:
        number = (await fleet.client.post("/admin/rollouts", json={"version": "2"})).json()["number"]
        other = await fleet.client.post("/admin/rollouts", json={"version": "3"})
        assert (other.status_code, other.json()["code"]) == (409, "rollout_under_way")
        told = (await fleet.client.post("/admin/plan", json={"kind": "rollout"})).json()
        assert (told["summary"], told["decisions"]) == ("boot test: a machine is to boot", [])
        cancelled = await fleet.client.post(f"/admin/rollouts/{number}/cancel")
        assert cancelled.status_code == 200, cancelled.text
        back = await stage(fleet, "turned_back")
        assert back["reason"].startswith("called off by")
        over = await fleet.client.post(f"/admin/rollouts/{number}/cancel")
        assert (over.status_code, over.json()["code"]) == (409, "rollout_over")


async def test_what_is_asked_wrongly_is_refused(open_fleet: OpenFleet, tmp_path: Path) -> None:
    async with open_fleet(**growing(tmp_path / "machines")) as fleet:
        for body, code in (({}, "bad_request"), ({"version": "../x"}, "invalid_argument")):
            answer = await fleet.client.post("/admin/rollouts", json=body)
            assert (answer.status_code, answer.json()["code"]) == (400, code)
        for path in ("1", "0", "x", "9" * 30):
            assert (await fleet.client.get(f"/admin/rollouts/{path}")).status_code == 404
            assert (await fleet.client.post(f"/admin/rollouts/{path}/cancel")).status_code == 404
        assert (await fleet.client.get("/admin/rollouts")).json() == []
        async with await fleet.other_organisation() as tenant:
            assert (await tenant.get("/admin/rollouts")).status_code == 403
            assert (await tenant.post("/admin/rollouts", json={"version": "2"})).status_code == 403


async def test_a_fleet_that_launches_nothing_has_nothing_to_replace(fleet: Fleet) -> None:
    answer = await fleet.client.post("/admin/rollouts", json={"version": "2"})
    assert (answer.status_code, answer.json()["code"]) == (501, "not_available")
