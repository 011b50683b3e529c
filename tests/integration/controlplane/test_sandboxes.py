"""The sandbox object, lists, kill, timeout, events, and what the tenants see of each other."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx

from .conftest import Fleet, OpenFleet

KEYS = {
    "sandboxID", "status", "connectURL", "token", "sandboxDomain", "templateID", "template", "region",
    "workerID", "machineID", "clientID", "cpuCount", "memoryMB", "diskMB", "timeout", "idleExpiresAt",
    "startedAt", "stoppedAt", "endAt", "alias", "metadata", "tags", "tagsLastUpdatedAt", "networkEnabled",
    "port", "secretStore", "fromCheckpointId", "templateVersion", "goldenVersion", "patchError", "errorMsg",
    "stopReason",
}  # fmt: skip
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


async def test_the_object_has_every_key(fleet: Fleet) -> None:
    asked = {
        "TIMEOUT": 300,
        "memorymb": 1025,
        "envs": {"SECRET": "never-shown"},
        "metadata": {"Case": "kept"},
        "alias": "mine",
        "port": 3000,
        "networkEnabled": False,
        "unknown": True,
        "image": None,
    }
    answer = await fleet.client.post("/api/sandboxes", json=asked, headers={"Content-Type": "text/plain"})
    made = answer.json()
    assert answer.status_code == 201
    assert set(made) == KEYS
    assert (made["memoryMB"], made["cpuCount"], made["diskMB"]) == (1152, 1, 20480)
    assert (made["timeout"], made["alias"], made["port"]) == (300, "mine", 3000)
    assert made["networkEnabled"] is False
    assert made["metadata"] == {"Case": "kept"}
    assert made["connectURL"] == fleet.url
    assert made["workerID"] == made["machineID"] == "wk-1"
    assert TIME.fullmatch(made["startedAt"])
    assert TIME.fullmatch(made["idleExpiresAt"])
    assert re.fullmatch(r"sb-[a-z0-9]{26}", made["sandboxID"])
    assert "never-shown" not in answer.text
    seen = (await fleet.client.get(f"/api/sandboxes/{made['sandboxID']}")).json()
    assert set(seen) == KEYS
    assert seen | {"token": ""} == made | {"token": ""}


async def test_a_body_is_optional(fleet: Fleet) -> None:
    answer = await fleet.client.post("/api/sandboxes")
    assert answer.status_code == 201
    assert (await fleet.client.post("/api/sandboxes", json={"templateID": "ubuntu"})).status_code == 201


async def test_kill_and_what_is_left(fleet: Fleet) -> None:
    sandbox = await fleet.create(timeout=60)
    path = f"/api/sandboxes/{sandbox}"
    for _ in range(2):
        answer = await fleet.client.delete(path)
        assert (answer.status_code, answer.content) == (204, b"")
    left = (await fleet.client.get(path)).json()
    assert (left["status"], left["stopReason"]) == ("stopped", "user_requested")
    assert (left["workerID"], left["region"], left["idleExpiresAt"]) == (None, None, None)
    assert TIME.fullmatch(left["stoppedAt"])
    assert (await fleet.client.get("/api/sandboxes")).json() == []
    listed = (await fleet.client.get("/api/sandboxes?status=stopped,failed")).json()
    assert [one["sandboxID"] for one in listed] == [sandbox]
    events = (await fleet.client.get(f"{path}/events")).json()
    assert events[0]["to"] == "stopped"
    assert [event["id"] for event in events] == sorted((event["id"] for event in events), reverse=True)
    assert set(events[0]) == {
        "id", "at", "from", "to", "event", "actor", "reason", "workerId", "epoch", "operationId", "elapsedMs",
    }  # fmt: skip


async def every_page(fleet: Fleet, path: str) -> list[dict[str, Any]]:
    """Return what is on all pages, each of which is fuller than nothing."""
    seen: list[dict[str, Any]] = []
    url: str | None = path
    while url is not None:
        answer = await fleet.client.get(url)
        assert answer.json()
        seen += answer.json()
        url = answer.links.get("next", {}).get("url")
    return seen


async def test_lists_page_by_link(fleet: Fleet) -> None:
    made = [await fleet.create(alias="a" if number % 2 else "b") for number in range(5)]
    seen = await every_page(fleet, "/api/sandboxes?limit=2")
    assert [one["sandboxID"] for one in seen] == made[::-1]
    await fleet.client.put(f"/api/sandboxes/{made[0]}/scaling-lock", json={"locked": True})
    for port in (80, 81, 82):
        await fleet.client.post(f"/api/sandboxes/{made[0]}/preview", json={"port": port})
    await fleet.client.post("/admin/orgs", json={"name": "two"})
    for other in (f"/api/sandboxes/{made[0]}/events", f"/api/sandboxes/{made[0]}/preview", "/admin/orgs"):
        whole = (await fleet.client.get(other)).json()
        assert len(whole) > 1
        assert await every_page(fleet, f"{other}?limit=1") == whole
    listed = (await fleet.client.get("/api/sandboxes?alias=a")).json()
    assert [one["sandboxID"] for one in listed] == [made[3], made[1]]


async def test_without_a_secret_store_no_host_is_named(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    answer = await fleet.client.get(f"/api/sandboxes/{sandbox}/allowed-hosts")
    expected = {"sandboxID": sandbox, "egressAllowlist": [], "perSecretAllowedHosts": {}}
    assert (answer.status_code, answer.json()) == (200, expected)
    async with await fleet.other_organisation() as stranger:
        answer = await stranger.get(f"/api/sandboxes/{sandbox}/allowed-hosts")
    assert (answer.status_code, answer.json()["error"]) == (404, "sandbox not found")


async def test_the_timeout_can_be_changed(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    answer = await fleet.client.post(f"/sandboxes/{sandbox}/timeout", json={"timeout": 77})
    assert (answer.status_code, answer.content) == (204, b"")
    seen = (await fleet.client.get(f"/api/sandboxes/{sandbox}")).json()
    assert seen["timeout"] == 77
    assert seen["idleExpiresAt"] is not None


async def test_tenants_do_not_see_each_other(fleet: Fleet) -> None:
    sandbox = await fleet.create(alias="mine")
    await fleet.client.put(f"/api/sandboxes/{sandbox}/files?path=/tmp/secret", content=b"mine")
    made = await fleet.client.post(f"/api/sandboxes/{sandbox}/exec/run-async", json={"cmd": "sleep 5"})
    reads = [
        ("GET", ""),
        ("GET", "/events"),
        ("GET", "/files?path=/tmp/secret"),
        ("GET", "/files/list?path=/tmp"),
        ("GET", f"/exec/{made.json()['execId']}/result"),
        ("POST", "/exec/run"),
        ("POST", "/exec/run-async"),
        ("POST", "/timeout"),
        ("PUT", "/files?path=/tmp/x"),
        ("POST", "/files/mkdir?path=/tmp/x"),
        ("DELETE", "/files?path=/tmp/secret"),
        ("DELETE", ""),
    ]
    async with await fleet.other_organisation() as other:
        for method, suffix in reads:
            body = {"cmd": "echo x", "timeout": 1} if method == "POST" else None
            theirs = await _masked(other, method, f"/api/sandboxes/{sandbox}{suffix}", body)
            unknown = await _masked(other, method, f"/api/sandboxes/sb-{'a' * 26}{suffix}", body)
            assert theirs == unknown
            assert theirs[0] == 404
        for query in ("", "?status=all", "?alias=mine"):
            assert (await other.get(f"/api/sandboxes{query}")).json() == []
        workers = (await other.get("/api/workers")).json()
        assert workers[0]["sandboxes"] == {}
    assert (await fleet.client.get(f"/api/sandboxes/{sandbox}/files?path=/tmp/secret")).content == b"mine"
    assert list((await fleet.client.get("/api/workers")).json()[0]["sandboxes"]) == [sandbox]


async def _masked(
    client: httpx.AsyncClient, method: str, path: str, body: dict[str, object] | None
) -> tuple[int, dict[str, object]]:
    answer = await client.request(method, path, json=body)
    return answer.status_code, answer.json() | {"requestId": ""}


async def test_quotas_and_caps(fleet: Fleet) -> None:
    organisations = (await fleet.client.get("/admin/orgs")).json()
    path = f"/admin/orgs/{organisations[0]['id']}"
    changed = await fleet.client.patch(path, json={"quotas": {"sandboxes": 1}, "caps": {"memoryMB": 1024}})
    unbounded = dict.fromkeys(("vcpu", "memoryMB", "diskMB", "createsPerSecond"))
    assert changed.json()["quotas"] == {"sandboxes": 1, **unbounded}
    answer = await fleet.client.post("/api/sandboxes", json={"memoryMB": 2048})
    assert (answer.status_code, answer.json()["code"]) == (402, "plan_limit")
    await fleet.create()
    answer = await fleet.client.post("/api/sandboxes")
    assert (answer.status_code, answer.json()["code"]) == (429, "quota_exceeded")
    assert answer.json()["details"] == {"quota": "sandboxes", "limit": 1, "used": 1}
    assert (await fleet.client.get(path)).json()["used"]["sandboxes"] == 1


async def test_keys_are_shown_once_and_end_with_their_revocation(open_fleet: OpenFleet) -> None:
    async with open_fleet(key_cache_s=0) as fleet:
        organisation = (await fleet.client.post("/admin/orgs", json={"name": "o"})).json()
        taken = await fleet.client.post("/admin/orgs", json={"name": "o"})
        assert (taken.status_code, taken.json()["code"]) == (409, "name_taken")
        path = f"/admin/orgs/{organisation['id']}/keys"
        made = (await fleet.client.post(path, json={"name": "ci"})).json()
        assert re.fullmatch(r"osb_[a-z0-9]{40}", made["key"])
        listed = (await fleet.client.get(path)).json()
        assert [key["id"] for key in listed] == [made["id"]]
        assert "key" not in listed[0]
        async with fleet.anonymous() as client:
            headers = {"X-API-Key": made["key"]}
            assert (await client.get("/api/sandboxes", headers=headers)).status_code == 200
            assert (await fleet.client.delete(f"{path}/{made['id']}")).status_code == 204
            assert (await client.get("/api/sandboxes", headers=headers)).status_code == 403
        assert (await fleet.client.delete(f"{path}/{made['id']}")).status_code == 404
        assert (await fleet.client.get("/admin/orgs/not-a-uuid")).status_code == 404


async def test_a_full_fleet_says_so_and_when_to_come_again(open_fleet: OpenFleet) -> None:
    async with open_fleet(memory_budget_mib=1024, creation_queue_s=1.5) as fleet:
        await fleet.create()
        answers = await asyncio.gather(*[fleet.client.post("/api/sandboxes") for _ in range(3)])
        for answer in answers:
            assert (answer.status_code, answer.json()["code"]) == (503, "no_capacity")
            assert int(answer.headers["Retry-After"]) >= 5
        assert len((await fleet.client.get("/api/sandboxes?status=failed")).json()) == 3
