"""Signed URLs, tags, stats and fresh tokens: what hangs on a sandbox besides its life."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx
import pytest
from tests.waiting import eventually

from sandfleet.controlplane.signed_urls import UrlSigner

from .conftest import Fleet, OpenFleet

PATH = "/home/sandbox/a b+c%é.txt"


async def test_a_signed_url_reads_and_writes_its_file_and_no_other(fleet: Fleet) -> None:
    root = f"/api/sandboxes/{await fleet.create()}/files"
    up = (await fleet.client.post(f"{root}/upload-url", json={"path": PATH})).json()
    down = (await fleet.client.post(f"{root}/download-url", json={"path": PATH, "expiresIn": 60})).json()
    assert up["url"].startswith(f"{fleet.url}{root}/upload?")
    async with httpx.AsyncClient(timeout=60) as anybody:
        assert (await anybody.put(up["url"], content=b"x" * 70_000)).status_code == 204
        read = await anybody.get(down["url"])
        assert (read.status_code, read.content) == (200, b"x" * 70_000)
        assert (await anybody.head(down["url"])).status_code == 200
        wrong_way = await anybody.get(up["url"].replace("/upload?", "/download?"))
        assert (wrong_way.status_code, wrong_way.json()["code"]) == (403, "signature_invalid")
        other = await anybody.get(_changed(down["url"], path="/etc/shadow"))
        assert (other.status_code, other.json()["error"]) == (403, "invalid signature")
        later = await anybody.get(_changed(down["url"], expires="99999999999"))
        assert later.json()["code"] == "signature_invalid"
        late = await anybody.get(_changed(down["url"], expires="1"))
        assert (late.status_code, late.json()["error"]) == (403, "signed URL expired")
        for name in ("path", "expires", "signature"):
            missing = await anybody.get(_changed(down["url"], **{name: None}))
            assert missing.status_code == 400, name


async def test_signed_urls_are_bounded_and_need_a_key_to_be_made(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    root = f"/api/sandboxes/{sandbox}/files"
    now = int(fleet.edge.plane.clock.now().timestamp())
    long = await fleet.client.post(f"{root}/download-url", json={"path": "x", "expiresIn": 10**6})
    assert int(dict(parse_qsl(urlsplit(long.json()["url"]).query))["expires"]) <= now + 86_402
    assert (await fleet.client.post(f"{root}/download-url", json={})).status_code == 400
    zero = await fleet.client.post(f"{root}/download-url", json={"path": "x", "expiresIn": 0})
    assert zero.json()["code"] == "invalid_argument"
    async with fleet.anonymous() as anybody, await fleet.other_organisation() as other:
        assert (await anybody.post(f"{root}/download-url", json={"path": "x"})).status_code == 401
        assert (await other.post(f"{root}/download-url", json={"path": "x"})).status_code == 404
    made = await fleet.client.post(f"{root}/download-url", json={"path": "x"})
    await fleet.client.delete(f"/api/sandboxes/{sandbox}")
    assert (await fleet.client.post(f"{root}/download-url", json={"path": "x"})).status_code == 410
    async with httpx.AsyncClient(timeout=60) as anybody:
        assert (await anybody.get(made.json()["url"])).status_code == 410


async def test_another_fleets_signature_opens_nothing(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    expires = int((fleet.edge.plane.clock.now() + timedelta(hours=1)).timestamp())
    foreign = UrlSigner("6b" * 32).signature(sandbox, b"x", direction="download", expires=expires)
    query = urlencode({"path": "x", "expires": expires, "signature": foreign})
    answer = await fleet.client.get(f"/api/sandboxes/{sandbox}/files/download?{query}")
    assert answer.json()["code"] == "signature_invalid"


async def test_tags_are_replaced_counted_and_kept(fleet: Fleet) -> None:
    first, second = await fleet.create(), await fleet.create()
    path = f"/api/sandboxes/{first}/tags"
    assert (await fleet.client.get(path)).json() == {"tags": {}, "tagsLastUpdatedAt": None}
    put = await fleet.client.put(path, json={"team": "a", "env:x": "1"})
    assert put.json()["tags"] == {"team": "a", "env:x": "1"}
    await fleet.client.put(f"/api/sandboxes/{second}/tags", json={"team": "b"})
    keys = (await fleet.client.get("/api/tags")).json()["keys"]
    assert keys == [
        {"key": "env:x", "sandboxCount": 1, "valueCount": 1},
        {"key": "team", "sandboxCount": 2, "valueCount": 2},
    ]
    seen = (await fleet.client.get(f"/api/sandboxes/{first}")).json()
    assert seen["tags"] == {"team": "a", "env:x": "1"}
    assert seen["tagsLastUpdatedAt"] == put.json()["tagsLastUpdatedAt"]
    await fleet.client.delete(f"/api/sandboxes/{first}")
    assert (await fleet.client.put(path, json={})).json()["tags"] == {}
    async with await fleet.other_organisation() as other:
        assert (await other.get(path)).status_code == 404
        assert (await other.put(path, json={"x": "y"})).status_code == 404
        assert (await other.get("/api/tags")).json() == {"keys": []}


@pytest.mark.parametrize(
    "tags",
    [
        {"oc:owner": "x"},
        {"a b": "x"},
        {"k" * 129: "x"},
        {"k": "v" * 257},
        {"": "x"},
        {f"k{number}": "" for number in range(51)},
    ],
)
async def test_tags_outside_the_rules_change_nothing(fleet: Fleet, tags: dict[str, str]) -> None:
    path = f"/api/sandboxes/{await fleet.create()}/tags"
    await fleet.client.put(path, json={"kept": "1"})
    answer = await fleet.client.put(path, json=tags)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
    assert (await fleet.client.get(path)).json()["tags"] == {"kept": "1"}


async def test_tags_survive_every_other_change_of_the_row(fleet: Fleet) -> None:
    path = f"/api/sandboxes/{await fleet.create()}"
    await asyncio.gather(
        fleet.client.put(f"{path}/tags", json={"a": "1"}),
        *(fleet.client.post(f"{path}/timeout", json={"timeout": 100 + number}) for number in range(4)),
    )
    assert (await fleet.client.get(path)).json()["tags"] == {"a": "1"}


async def test_stats_measure_a_running_sandbox_and_are_zero_elsewhere(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    for prefix in ("/api/sandboxes", "/sandboxes"):
        used = (await fleet.client.get(f"{prefix}/{sandbox}/stats")).json()
        assert used == {
            "cpuPercent": 0.0, "memUsage": 2**27, "memLimit": 928 * 2**20,
            "netInput": 0, "netOutput": 0, "pids": 2, "status": "running",
        }  # fmt: skip
    coming = await fleet.begin_create()
    idle = (await fleet.client.get(f"/api/sandboxes/{coming}/stats")).json()
    assert (idle["status"], idle["memLimit"], idle["pids"]) == ("creating", 0, 0)
    fleet.hypervisor.faults.release("clone")
    await fleet.client.delete(f"/api/sandboxes/{sandbox}")
    assert (await fleet.client.get(f"/api/sandboxes/{sandbox}/stats")).status_code == 410


async def test_looking_at_stats_does_not_keep_a_sandbox_awake(open_fleet: OpenFleet) -> None:
    async with open_fleet(loop_interval_s=0.1) as fleet:
        sandbox = await fleet.create(timeout=1)

        async def stats_of_sleeping() -> dict[str, Any] | None:
            stats: dict[str, Any] = (await fleet.client.get(f"/api/sandboxes/{sandbox}/stats")).json()
            return stats if stats.get("status") == "hibernated" else None

        stats = await eventually(stats_of_sleeping, what="the sandbox to go idle")
        assert stats is not None
        assert stats["memUsage"] == 0


async def test_a_token_is_renewed_by_itself_and_opens_only_its_own(fleet: Fleet) -> None:
    sandbox, other = await fleet.create(), await fleet.create()
    token = (await fleet.client.get(f"/api/sandboxes/{sandbox}")).json()["token"]
    async with fleet.anonymous() as holder:
        holder.headers["Authorization"] = f"Bearer {token}"
        fresh = await holder.post(f"/sandboxes/{sandbox}/token/refresh")
        assert fresh.status_code == 200
        holder.headers["Authorization"] = f"Bearer {fresh.json()['token']}"
        assert (await holder.get(f"/sandboxes/{sandbox}/stats")).status_code == 200
        assert (await holder.post(f"/sandboxes/{other}/token/refresh")).status_code == 403
        await fleet.client.delete(f"/api/sandboxes/{sandbox}")
        assert (await holder.post(f"/api/sandboxes/{sandbox}/token/refresh")).status_code == 410


def _changed(url: str, **values: str | None) -> str:
    parts = urlsplit(url)
    query = {**dict(parse_qsl(parts.query)), **values}
    kept = {name: value for name, value in query.items() if value is not None}
    return urlunsplit(parts._replace(query=urlencode(kept)))
