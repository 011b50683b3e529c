"""Quotas and rates of organisations through the API: no burst passes them, and what refuses is told."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from tests.waiting import eventually

from .conftest import Fleet, OpenFleet

LATER = {"Prefer": "respond-async"}


async def organisation_of(fleet: Fleet) -> str:
    return str((await fleet.client.get("/admin/orgs")).json()[0]["id"])


async def limit(fleet: Fleet, **quotas: int) -> dict[str, Any]:
    """Give the first organisation these quotas and no others."""
    path = f"/admin/orgs/{await organisation_of(fleet)}"
    answer = await fleet.client.patch(path, json={"quotas": quotas})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def used(fleet: Fleet) -> dict[str, Any]:
    found = await fleet.client.get(f"/admin/orgs/{await organisation_of(fleet)}")
    return dict(found.json()["used"])


async def test_of_fifty_creates_at_once_a_quota_of_ten_lets_ten_in(fleet: Fleet) -> None:
    await limit(fleet, sandboxes=10)
    answers = await asyncio.gather(
        *(fleet.client.post("/api/sandboxes", json={"memoryMB": 512}, headers=LATER) for _ in range(50))
    )
    assert Counter(answer.status_code for answer in answers) == {201: 10, 429: 40}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["code"] == "quota_exceeded"
    assert refused.json()["details"] == {"quota": "sandboxes", "limit": 10, "used": 10}
    assert "retry-after" not in refused.headers  # waiting changes nothing
    assert (await used(fleet))["sandboxes"] == 10


@pytest.mark.parametrize(
    ("quotas", "body", "quota"),
    [
        ({"vcpu": 3}, {"cpuCount": 2, "memoryMB": 512}, "vcpu"),
        ({"memoryMB": 1024}, {"memoryMB": 640}, "memoryMB"),
        ({"diskMB": 30000}, {"memoryMB": 512}, "diskMB"),
    ],
)
async def test_each_quota_counts_and_is_free_again_after_the_end(
    fleet: Fleet, quotas: dict[str, int], body: dict[str, int], quota: str
) -> None:
    await limit(fleet, **quotas)
    first = await fleet.create(**body)
    refused = await fleet.client.post("/api/sandboxes", json=body)
    assert (refused.status_code, refused.json()["details"]["quota"]) == (429, quota)
    assert (await used(fleet))[quota] > 0
    await fleet.client.delete(f"/api/sandboxes/{first}")

    async def is_free() -> bool:
        return bool((await used(fleet))[quota] == 0)

    await eventually(is_free, what="the quota to be free")
    await fleet.create(**body)


async def test_create_wake_fork_and_growth_pass_one_admission(fleet: Fleet) -> None:
    asleep = await fleet.create(memoryMB=512)
    await fleet.client.post(f"/api/sandboxes/{asleep}/hibernate")
    running = await fleet.create(memoryMB=512)
    await limit(fleet, sandboxes=1)
    path = f"/api/sandboxes/{running}"
    for answer in (
        await fleet.client.post("/api/sandboxes", json={"memoryMB": 512}),
        await fleet.client.post(f"/api/sandboxes/{asleep}/wake"),
        await fleet.client.post(f"{path}/fork?count=2"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (429, "quota_exceeded"), answer.text
        assert answer.json()["details"] == {"quota": "sandboxes", "limit": 1, "used": 1}
    # A quota of what does not grow keeps nothing from growing, however far it is exceeded.
    await limit(fleet, sandboxes=0, vcpu=0, diskMB=0)
    assert (await fleet.client.post(f"{path}/scale", json={"memoryMB": 640})).status_code == 200
    await limit(fleet, memoryMB=700)
    grown = await fleet.client.post(f"{path}/scale", json={"memoryMB": 768})
    assert grown.json()["details"] == {"quota": "memoryMB", "limit": 700, "used": 640}


async def test_who_creates_too_fast_is_told_when_to_come_again(open_fleet: OpenFleet) -> None:
    async with open_fleet() as fleet:
        shown = await limit(fleet, createsPerSecond=1)
        assert shown["quotas"]["createsPerSecond"] == 1
        assert shown["used"]["createsPerSecond"] is None
        answers = await asyncio.gather(
            *(fleet.client.post("/api/sandboxes", json={"memoryMB": 512}, headers=LATER) for _ in range(20))
        )
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert refused[0].json()["code"] == "rate_limited"
        assert refused[0].json()["details"] == {"quota": "createsPerSecond", "limit": 1}
        assert int(refused[0].headers["retry-after"]) >= 1
        await limit(fleet, createsPerSecond=0)
        none = await fleet.client.post("/api/sandboxes", json={"memoryMB": 512})
        assert (none.status_code, none.headers["retry-after"]) == (429, "60")
        async with await fleet.other_organisation() as other:
            theirs = await other.post("/api/sandboxes", json={"memoryMB": 512}, headers=LATER)
            assert theirs.status_code == 201


async def test_a_request_that_comes_again_is_counted_once_and_a_fork_for_all(fleet: Fleet) -> None:
    sandbox = await fleet.create(memoryMB=512)
    await limit(fleet, createsPerSecond=1)
    forked = await fleet.client.post(
        f"/api/sandboxes/{sandbox}/fork?count=60", json={}, headers={"Idempotency-Key": "once", **LATER}
    )
    assert forked.status_code == 201, forked.text
    again = await fleet.client.post(
        f"/api/sandboxes/{sandbox}/fork?count=60", json={}, headers={"Idempotency-Key": "once", **LATER}
    )
    assert again.headers["idempotency-replayed"] == "true"
    refused = await fleet.client.post("/api/sandboxes", json={"memoryMB": 512})
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert int(refused.headers["retry-after"]) <= 60


async def test_the_command_line_changes_what_is_given_and_leaves_the_rest(fleet: Fleet) -> None:
    made = await fleet.command("org", "create", "second", "--sandboxes", "3", "--disk-cap", "30000")
    assert made["quotas"] == {
        "sandboxes": 3, "vcpu": None, "memoryMB": None, "diskMB": None, "createsPerSecond": None,
    }  # fmt: skip
    await fleet.command("org", "set", "second", "--creates-per-second", "5", "--memory-cap", "4096")
    changed = await fleet.command("org", "set", made["id"], "--sandboxes", "none", "--name", "other")
    assert changed["quotas"]["sandboxes"] is None
    assert changed["quotas"]["createsPerSecond"] == 5
    assert changed["caps"] == {"memoryMB": 4096, "diskMB": 30000}
    assert changed == await fleet.command("org", "show", "other")
    assert [one["name"] for one in await fleet.command("org", "ls")] == ["other", "default"]
