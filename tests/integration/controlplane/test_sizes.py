"""Sizes of a running sandbox through the API: ranges, caps, quotas, capacity, accounting."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.waiting import eventually

from .conftest import Fleet, OpenFleet


async def committed(fleet: Fleet) -> int:
    """Return what is reserved on the worker."""
    return int((await fleet.client.get("/api/workers")).json()[0]["committed_memory_mb"])


async def is_committed(fleet: Fleet, memory_mib: int) -> bool:
    return await committed(fleet) == memory_mib


def machine_of(fleet: Fleet, sandbox: str) -> Any:
    return next(one for one in fleet.hypervisor.machines.values() if one.facts.owner == sandbox)


async def test_growing_and_shrinking_reach_guest_row_and_reservation(fleet: Fleet) -> None:
    sandbox = await fleet.create(memoryMB=1024)
    path = f"/api/sandboxes/{sandbox}"
    grown = await fleet.client.post(f"{path}/scale", json={"memoryMB": 2000})
    assert grown.status_code == 200, grown.text
    assert grown.json() == {
        "sandboxID": sandbox, "workerID": "wk-1", "memoryMB": 2048, "cpuPercent": 100,
        "migrated": False, "ok": True, "autoscaleDisabled": False, "pending": False,
    }  # fmt: skip
    machine = machine_of(fleet, sandbox)
    assert machine.facts.order.memory_mib == 2048
    assert 0.88 * 2048 <= machine.guest.limits["memory_mib"] <= 2048
    assert (await fleet.client.get(path)).json()["memoryMB"] == 2048
    assert await committed(fleet) == 2048
    shrunk = await fleet.client.put(f"{path}/limits", json={"memoryMB": 512, "cpuPercent": 50})
    assert (shrunk.json()["memoryMB"], shrunk.json()["cpuPercent"]) == (512, 50)
    assert machine.guest.limits["cpu_percent"] == machine.facts.cpu_percent == 50
    assert 0.88 * 512 <= machine.guest.limits["memory_mib"] <= 512
    assert await committed(fleet) == 512
    events = [one["event"] for one in (await fleet.client.get(f"{path}/events")).json()]
    assert events[:2] == ["resized", "resize_requested"]


async def test_values_are_checked_before_the_sandbox_is_looked_for(fleet: Fleet) -> None:
    nowhere = "/api/sandboxes/sb-unknown"
    for body, code in (
        ({}, "bad_request"),
        ({"memoryMB": 0}, "memory_out_of_range"),
        ({"memoryMB": -5}, "memory_out_of_range"),
        ({"memoryMB": 256}, "memory_out_of_range"),
        ({"memoryMB": 10**6}, "memory_out_of_range"),
        ({"memoryMB": 1024, "cpuPercent": 0}, "cpu_out_of_range"),
    ):
        answer = await fleet.client.post(f"{nowhere}/scale", json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, code), body
    outside = (await fleet.client.post(f"{nowhere}/scale", json={"memoryMB": 1})).json()
    assert outside["details"] == {"minMB": 512, "maxMB": 65536, "blockMB": 128}
    assert (await fleet.client.put(f"{nowhere}/limits", json={"memoryMB": 1024})).status_code == 404
    sandbox = await fleet.create()
    async with await fleet.other_organisation() as other:
        theirs = await other.post(f"/api/sandboxes/{sandbox}/scale", json={"memoryMB": 1024})
        assert theirs.status_code == 404
    await fleet.client.delete(f"/api/sandboxes/{sandbox}")
    gone = await fleet.client.post(f"/api/sandboxes/{sandbox}/scale", json={"memoryMB": 1024})
    assert gone.status_code == 410


async def test_a_guest_that_uses_more_is_not_shrunk(fleet: Fleet) -> None:
    sandbox = await fleet.create(memoryMB=2048)
    machine = machine_of(fleet, sandbox)
    machine.guest.memory_used_mib = 900
    answer = await fleet.client.post(f"/api/sandboxes/{sandbox}/scale", json={"memoryMB": 896})
    assert (answer.status_code, answer.json()["code"]) == (409, "oom_floor")
    assert answer.json()["details"]["usedMB"] == 900
    assert answer.json()["details"]["floorMB"] > 900
    machine.guest.memory_used_mib = 100
    machine.memory_floor_mib = 1500
    stuck = await fleet.client.post(f"/api/sandboxes/{sandbox}/scale", json={"memoryMB": 1024})
    assert stuck.json()["code"] == "oom_floor"
    assert machine.facts.order.memory_mib == 2048
    assert machine.guest.limits["memory_mib"] > 1900
    assert await committed(fleet) == 2048
    assert (await fleet.client.get(f"/api/sandboxes/{sandbox}")).json()["memoryMB"] == 2048


async def test_cap_quota_and_capacity_refuse_and_reserve_nothing(open_fleet: OpenFleet) -> None:
    async with open_fleet(memory_budget_mib=4096) as fleet:
        sandbox = await fleet.create(memoryMB=1024)
        organisation = (await fleet.client.get("/admin/orgs")).json()[0]["id"]
        scale = f"/api/sandboxes/{sandbox}/scale"
        for change, body, status, code in (
            ({"caps": {"memoryMB": 2048}}, 2176, 402, "plan_limit"),
            ({"caps": {"memoryMB": 65536}, "quotas": {"memoryMB": 2048}}, 2176, 429, "quota_exceeded"),
            ({"quotas": {"memoryMB": 65536}}, 4224, 503, "no_capacity"),
        ):
            await fleet.client.patch(f"/admin/orgs/{organisation}", json=change)
            answer = await fleet.client.post(scale, json={"memoryMB": body})
            assert (answer.status_code, answer.json()["code"]) == (status, code)
            assert await committed(fleet) == 1024
        assert "retry-after" in answer.headers
        assert (await fleet.client.post(scale, json={"memoryMB": 4096})).status_code == 200


async def test_changes_of_one_moment_cannot_oversell_a_worker(open_fleet: OpenFleet) -> None:
    async with open_fleet(memory_budget_mib=4096) as fleet:
        sandboxes = [await fleet.create(memoryMB=1024) for _ in range(3)]
        answers = await asyncio.gather(
            *(fleet.client.post(f"/api/sandboxes/{one}/scale", json={"memoryMB": 2048}) for one in sandboxes)
        )
        assert sorted(answer.status_code for answer in answers) == [200, 503, 503]
        assert await committed(fleet) == 4096


async def test_two_changes_of_one_sandbox_follow_each_other(fleet: Fleet) -> None:
    sandbox = await fleet.create(memoryMB=1024)
    sizes = (1152, 1280, 1408)
    answers = await asyncio.gather(
        *(fleet.client.post(f"/api/sandboxes/{sandbox}/scale", json={"memoryMB": size}) for size in sizes)
    )
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert await committed(fleet) == (await fleet.client.get(f"/api/sandboxes/{sandbox}")).json()["memoryMB"]


async def test_a_slow_change_is_answered_as_pending_and_ends_by_itself(fleet: Fleet) -> None:
    sandbox = await fleet.create(memoryMB=1024)
    fleet.hypervisor.faults.hold("resize_memory")
    answer = await fleet.client.post(
        f"/api/sandboxes/{sandbox}/scale", json={"memoryMB": 2048}, headers={"Prefer": "respond-async"}
    )
    assert (answer.status_code, answer.json()["pending"]) == (202, True)
    assert await committed(fleet) == 2048
    fleet.hypervisor.faults.release("resize_memory")
    again = await fleet.client.post(f"/api/sandboxes/{sandbox}/scale", json={"memoryMB": 2048})
    assert again.status_code == 200


async def test_a_kill_wins_over_a_change_of_size(fleet: Fleet) -> None:
    sandbox = await fleet.create(memoryMB=1024)
    fleet.hypervisor.faults.hold("resize_memory")
    async with asyncio.TaskGroup() as group:
        scaling = group.create_task(
            fleet.client.post(f"/api/sandboxes/{sandbox}/scale", json={"memoryMB": 2048})
        )
        await eventually(lambda: is_committed(fleet, 2048), what="the larger reservation")
        assert (await fleet.client.delete(f"/api/sandboxes/{sandbox}")).status_code == 204
        fleet.hypervisor.faults.release("resize_memory")
    assert scaling.result().status_code == 410
    await eventually(lambda: is_committed(fleet, 0), what="the reservation to be given back")
