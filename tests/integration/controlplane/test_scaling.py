"""Settings of a sandbox's size: who may change it, told by the API, kept in the row, and obeyed by all."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from tests.waiting import WITHIN_S, eventually

from .conftest import Fleet, OpenFleet
from .test_metadata_service import asking
from .test_sizes import machine_of


def autoscale(sandbox: str) -> str:
    return f"/api/sandboxes/{sandbox}/autoscale"


def lock(sandbox: str) -> str:
    return f"/api/sandboxes/{sandbox}/scaling-lock"


async def events_of(fleet: Fleet, sandbox: str) -> list[tuple[str, str]]:
    found = (await fleet.client.get(f"/api/sandboxes/{sandbox}/events")).json()
    return [(one["event"], one["reason"]) for one in found]


def refusal(answer: httpx.Response) -> tuple[int, Any]:
    return answer.status_code, answer.json().get("code")


async def test_autoscale_is_off_until_it_is_asked_for_and_keeps_its_bounds(fleet: Fleet) -> None:
    sandbox = await fleet.create(memoryMB=1024)
    whole = {"sandboxID": sandbox, "enabled": False, "minMemoryMB": 512, "maxMemoryMB": 65536}
    assert (await fleet.client.get(autoscale(sandbox))).json() == whole
    given = {"enabled": True, "minMemoryMB": 1000, "maxMemoryMB": 4000}
    on = await fleet.client.put(autoscale(sandbox), json=given)
    assert (on.status_code, on.json()) == (
        200,
        {"sandboxID": sandbox, "enabled": True, "minMemoryMB": 1024, "maxMemoryMB": 4096},
    )
    off = await fleet.client.put(autoscale(sandbox), json={"enabled": False})
    assert off.json() == {**on.json(), "enabled": False}
    narrower = await fleet.client.put(autoscale(sandbox), json={"enabled": True, "maxMemoryMB": 2048})
    assert (narrower.json()["minMemoryMB"], narrower.json()["maxMemoryMB"]) == (1024, 2048)
    assert (await fleet.client.put(autoscale(sandbox), json={"enabled": True})).json() == narrower.json()
    assert (await events_of(fleet, sandbox))[:3] == [
        ("autoscale_on", "requested: between 1024 and 2048 MiB"),
        ("autoscale_off", "requested"),
        ("autoscale_on", "requested: between 1024 and 4096 MiB"),
    ]


async def test_what_is_wrong_with_it_is_told_in_the_order_of_the_checks(fleet: Fleet) -> None:
    nowhere = autoscale("sb-unknown")
    for body, code in (
        ({}, "bad_request"),
        ({"enabled": True, "minMemoryMB": 0}, "memory_out_of_range"),
        ({"enabled": True, "maxMemoryMB": 100}, "memory_out_of_range"),
        ({"enabled": True, "maxMemoryMB": 10**6}, "memory_out_of_range"),
        ({"enabled": True, "minMemoryMB": 4096, "maxMemoryMB": 1024}, "invalid_argument"),
    ):
        assert refusal(await fleet.client.put(nowhere, json=body)) == (400, code), body
    assert (await fleet.client.put(nowhere, json={"enabled": True})).status_code == 404
    assert (await fleet.client.put(lock("sb-unknown"), json={})).status_code == 404
    sandbox = await fleet.create(memoryMB=1024)
    await fleet.client.put(autoscale(sandbox), json={"enabled": True, "minMemoryMB": 2048})
    above = await fleet.client.put(autoscale(sandbox), json={"enabled": True, "maxMemoryMB": 1024})
    assert refusal(above) == (400, "invalid_argument")
    assert refusal(await fleet.client.put(lock(sandbox), json={})) == (400, "bad_request")
    organisation = (await fleet.client.get("/admin/orgs")).json()[0]["id"]
    await fleet.client.patch(f"/admin/orgs/{organisation}", json={"caps": {"memoryMB": 4096}})
    dear = await fleet.client.put(autoscale(sandbox), json={"enabled": True, "maxMemoryMB": 8192})
    assert refusal(dear) == (402, "plan_limit")
    assert (await fleet.client.get(autoscale(sandbox))).json()["maxMemoryMB"] == 4096
    async with await fleet.other_organisation() as other:
        for path in (autoscale(sandbox), lock(sandbox)):
            assert (await other.get(path)).status_code == 404
        assert (await other.put(lock(sandbox), json={"locked": True})).status_code == 404
        assert (await other.put(autoscale(sandbox), json={"enabled": False})).status_code == 404
    await fleet.client.delete(f"/api/sandboxes/{sandbox}")
    assert (await fleet.client.get(autoscale(sandbox))).status_code == 200
    assert refusal(await fleet.client.put(autoscale(sandbox), json={"enabled": True})) == (410, "gone")
    assert refusal(await fleet.client.put(lock(sandbox), json={"locked": True})) == (410, "gone")


async def test_a_locked_size_is_changed_by_nobody(fleet: Fleet) -> None:
    sandbox = await fleet.create(memoryMB=1024)
    await fleet.client.put(autoscale(sandbox), json={"enabled": True})
    locked = await fleet.client.put(lock(sandbox), json={"locked": True})
    assert (locked.status_code, locked.json()) == (200, {"sandboxID": sandbox, "locked": True})
    assert (await fleet.client.get(autoscale(sandbox))).json()["enabled"] is False
    path = f"/api/sandboxes/{sandbox}"
    for answer in (
        await fleet.client.post(f"{path}/scale", json={"memoryMB": 2048}),
        await fleet.client.put(f"{path}/limits", json={"memoryMB": 512}),
        await fleet.client.put(autoscale(sandbox), json={"enabled": True}),
    ):
        assert refusal(answer) == (403, "scaling_locked"), answer.text
    assert (await fleet.client.put(autoscale(sandbox), json={"enabled": False})).status_code == 200
    async with await asking(fleet, sandbox) as guest:
        own = await guest.post("/v1/scale", json={"memoryMB": 2048})
        assert (own.status_code, own.text) == (403, "the size of the sandbox is locked\n")
    assert (await fleet.client.get(path)).json()["memoryMB"] == 1024
    unlocked = await fleet.client.put(lock(sandbox), json={"locked": False})
    assert unlocked.json()["locked"] is False
    assert (await fleet.client.get(lock(sandbox))).json() == unlocked.json()
    assert (await fleet.client.get(autoscale(sandbox))).json()["enabled"] is False
    assert (await fleet.client.post(f"{path}/scale", json={"memoryMB": 2048})).status_code == 200
    happened = [event for event, _ in await events_of(fleet, sandbox)]
    assert happened[2:5] == ["scaling_unlocked", "scaling_locked", "autoscale_on"]


async def test_a_change_by_hand_that_is_made_ends_autoscale(fleet: Fleet) -> None:
    sandbox = await fleet.create(memoryMB=2048)
    path = f"/api/sandboxes/{sandbox}"
    await fleet.client.put(autoscale(sandbox), json={"enabled": True, "maxMemoryMB": 4096})
    machine_of(fleet, sandbox).guest.memory_used_mib = 1500
    refused = await fleet.client.post(f"{path}/scale", json={"memoryMB": 512})
    assert refused.status_code == 409
    assert (await fleet.client.get(autoscale(sandbox))).json()["enabled"] is True
    by_hand = await fleet.client.post(f"{path}/scale", json={"memoryMB": 3072})
    assert by_hand.json()["autoscaleDisabled"] is True
    assert (await fleet.client.get(autoscale(sandbox))).json() == {
        "sandboxID": sandbox, "enabled": False, "minMemoryMB": 512, "maxMemoryMB": 4096,
    }  # fmt: skip
    again = await fleet.client.post(f"{path}/scale", json={"memoryMB": 2048})
    assert again.json()["autoscaleDisabled"] is False


async def test_a_lock_and_a_change_of_one_moment_have_an_order(fleet: Fleet) -> None:
    sandbox = await fleet.create(memoryMB=1024)
    path = f"/api/sandboxes/{sandbox}"
    fleet.hypervisor.faults.hold("resize_memory")
    async with asyncio.TaskGroup() as group:
        first = group.create_task(fleet.client.post(f"{path}/scale", json={"memoryMB": 2048}))
        async with asyncio.timeout(WITHIN_S):
            await fleet.hypervisor.faults.reached("resize_memory")
        assert (await fleet.client.put(lock(sandbox), json={"locked": True})).status_code == 200
        second = await fleet.client.post(f"{path}/scale", json={"memoryMB": 3072})
        assert refusal(second) == (403, "scaling_locked")
        fleet.hypervisor.faults.release("resize_memory")
    assert first.result().status_code == 200  # it was there before the lock
    assert (await fleet.client.get(path)).json()["memoryMB"] == 2048
    assert (await fleet.client.get(lock(sandbox))).json()["locked"] is True


async def test_settings_outlive_sleep_and_wake_nobody(fleet: Fleet) -> None:
    sandbox = await fleet.create(memoryMB=1024)
    await fleet.client.put(autoscale(sandbox), json={"enabled": True, "maxMemoryMB": 2048})
    await fleet.client.post(f"/api/sandboxes/{sandbox}/hibernate")
    wider = await fleet.client.put(autoscale(sandbox), json={"enabled": True, "maxMemoryMB": 4096})
    assert wider.status_code == 200
    assert (await fleet.client.get(f"/api/sandboxes/{sandbox}")).json()["status"] == "hibernated"
    await fleet.client.post(f"/api/sandboxes/{sandbox}/wake")
    assert (await fleet.client.get(autoscale(sandbox))).json() == wider.json()
    forks = (await fleet.client.post(f"/api/sandboxes/{sandbox}/fork", json={})).json()["sandboxes"]
    assert (await fleet.client.get(autoscale(forks[0]["sandboxID"]))).json()["enabled"] is False


async def test_the_fleet_follows_what_a_guest_uses(open_fleet: OpenFleet) -> None:
    quick = {"autoscale_interval_s": 0.1, "autoscale_shrink_after_s": 0.5}
    async with open_fleet(**quick) as fleet:
        sandbox = await fleet.create(memoryMB=1024)
        machine = machine_of(fleet, sandbox)
        machine.guest.memory_used_mib = 900
        await fleet.client.put(autoscale(sandbox), json={"enabled": True, "maxMemoryMB": 4096})

        async def has(memory_mib: int) -> bool:
            seen = (await fleet.client.get(f"/api/sandboxes/{sandbox}")).json()
            return bool(seen["memoryMB"] == memory_mib == machine.facts.order.memory_mib)

        await eventually(lambda: has(2048), what="the sandbox to grow")
        machine.guest.memory_used_mib = 50
        await eventually(lambda: has(512), what="the sandbox to shrink, step by step")
        assert (await fleet.client.get(autoscale(sandbox))).json()["enabled"] is True
        happened = [one for one in await events_of(fleet, sandbox) if one[0] == "resize_requested"]
        assert [reason.partition(":")[0] for _, reason in happened] == [
            "1024 to 512 MiB",
            "2048 to 1024 MiB",
            "1024 to 2048 MiB",
        ]
        assert "it uses 900 of " in happened[-1][1]


async def test_the_command_line_says_who_may_change_a_size(fleet: Fleet) -> None:
    sandbox = await fleet.create(memoryMB=1024)
    on = await fleet.command("autoscale", sandbox, "on", "--min", "1024", "--max", "2048")
    assert on == {"sandboxID": sandbox, "enabled": True, "minMemoryMB": 1024, "maxMemoryMB": 2048}
    assert on == await fleet.command("autoscale", sandbox)
    assert (await fleet.command("scale", sandbox, "1280"))["autoscaleDisabled"] is True
    assert await fleet.command("lock", sandbox) == {"sandboxID": sandbox, "locked": True}
    assert (await fleet.client.get(lock(sandbox))).json()["locked"] is True
    assert (await fleet.command("unlock", sandbox))["locked"] is False
