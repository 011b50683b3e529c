"""Why a sandbox is where it is, and what the planners would do: told through the API, done by nobody."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from .conftest import Fleet, OpenFleet
from .test_migration import Pair, moved
from .test_migration import pair as pair


async def placement(client: httpx.AsyncClient, sandbox: str) -> Any:
    answer = await client.get(f"/api/sandboxes/{sandbox}/placement")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def plan(fleet: Fleet, kind: str, **body: Any) -> Any:
    answer = await fleet.client.post("/admin/plan", json={"kind": kind, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_placement_is_explained_as_it_was_decided(pair: Pair) -> None:
    sandbox, home, away = await pair.create()
    told = await placement(pair.client, sandbox)
    assert (told["sandboxId"], told["workerId"], told["cause"]) == (sandbox, home, "create")
    assert told["request"]["memoryMB"] == 1024
    assert told["request"]["templateID"] == "base"
    said = {one["workerId"]: one for one in told["candidates"]}
    assert set(said) == {"wk-1", "wk-a", "wk-b"}
    assert [one["workerId"] for one in told["candidates"] if one["chosen"]] == [home]
    assert (said["wk-1"]["refusedBy"], said["wk-1"]["score"]) == ("memory", None)
    assert said[away]["refusedBy"] is None
    assert all(one["reason"] for one in told["candidates"])
    assert [(one["workerId"], one["to"]) for one in told["history"]] == [(home, None)]


async def test_a_move_is_a_stay_of_its_own(pair: Pair) -> None:
    sandbox, home, away = await pair.create()
    assert (await moved(pair, sandbox, away)).status_code == 200
    told = await placement(pair.client, sandbox)
    assert (told["workerId"], told["cause"]) == (away, "migrate")
    said = {one["workerId"]: one["refusedBy"] for one in told["candidates"]}
    assert (said[home], said["wk-1"]) == ("source", "wanted")
    last, first = told["history"]
    assert (first["workerId"], first["to"], last["workerId"], last["to"]) == (home, last["from"], away, None)
    assert last["epoch"] == first["epoch"] + 1 == told["epoch"]


async def test_what_was_said_of_workers_is_for_operators_alone(fleet: Fleet) -> None:
    tenant = await fleet.other_organisation()
    async with tenant:
        made = await tenant.post("/api/sandboxes", headers={"Prefer": "wait=50"})
        mine = made.json()["sandboxID"]
        told = await placement(tenant, mine)
        assert (told["workerId"], told["candidates"]) == ("wk-1", None)
        assert told["reason"]
        theirs = await fleet.create()
        assert (await tenant.get(f"/api/sandboxes/{theirs}/placement")).status_code == 404
        assert (await tenant.post("/admin/plan", json={"kind": "tick"})).status_code == 403


async def test_a_sandbox_that_is_nowhere_says_where_it_was(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    await fleet.client.delete(f"/api/sandboxes/{sandbox}")
    told = await placement(fleet.client, sandbox)
    assert (told["placedAt"], told["candidates"]) == (None, None)
    assert [one["to"] is not None for one in told["history"]] == [True]


async def test_creates_are_planned_one_after_the_other_with_a_reason_for_each_worker(pair: Pair) -> None:
    asked = {"memoryMB": 6144, "count": 3}
    told = await plan(pair.fleet, "create", request=asked)
    assert told["summary"] == "place: 2 of 3 find a place"
    assert [one["to"] for one in told["decisions"]] == ["wk-a", "wk-b", None]
    passed = [(one["subject"], one["workerId"], one["filter"]) for one in told["rejected"]]
    assert ("sandbox-1", "wk-b", "score") in passed
    assert ("sandbox-3", "wk-a", "memory") in passed
    assert len(passed) == 2 + 2 + 3
    again = await plan(pair.fleet, "create", request=asked, at=told["at"])
    assert again["decisions"] == told["decisions"]


async def test_the_fleet_may_be_thought_otherwise(pair: Pair) -> None:
    asked = {"memoryMB": 6144, "count": 1}
    fewer = await plan(
        pair.fleet, "create", request=asked, changes=[{"removeWorker": "wk-a"}, {"removeWorker": "wk-b"}]
    )
    assert fewer["decisions"][0]["command"] == "wait"
    more = await plan(
        pair.fleet,
        "create",
        request=asked,
        changes=[
            {"removeWorker": "wk-a"},
            {"addSandboxes": {"workerID": "wk-b", "memoryMB": 1024, "count": 8}},
            {"addWorkers": {"memoryMB": 8192, "count": 2}},
        ],
    )
    assert more["decisions"][0]["to"] == "wk-new-3-1"
    assert (await pair.workers())["wk-a"]["state"] == "ready"


async def test_an_emptied_worker_is_planned_to_the_last_sandbox(pair: Pair) -> None:
    sandbox, home, away = await pair.create()
    told = await plan(pair.fleet, "drain", request={"workerID": home})
    assert [(one["command"], one["subject"], one["to"]) for one in told["decisions"]] == [
        ("move", sandbox, away)
    ]
    gone = await plan(pair.fleet, "remove_worker", request={"workerID": home})
    assert gone["decisions"][-1]["command"] == "remove"
    stays = await plan(
        pair.fleet, "remove_worker", request={"workerID": home}, changes=[{"removeWorker": away}]
    )
    assert stays["rejected"][-1]["filter"] == "residents"
    assert (await pair.client.get(f"/admin/workers/{home}/drain")).json()["state"] == "none"


async def test_capacity_is_planned_with_another_policy_and_nothing_is_launched(
    open_fleet: OpenFleet, tmp_path: Any
) -> None:
    size = {"name": "worker", "memory_mib": 4096, "cpu_count": 4, "disk_mib": 200_000}
    pool = {"kind": "local", "directory": tmp_path / "machines", "machines_max": 4, "memory_max_mib": 16384}
    async with open_fleet(
        pools=({**pool, "sizes": (size,)},), capacity={"workers_max": 4, "idle_reserve": 0}
    ) as fleet:
        told = await plan(fleet, "capacity")
        assert told["summary"].startswith("hold: 1 workers, 1 wanted")
        assert [one["workerId"] for one in told["rejected"]] == ["wk-1"]
        more = await plan(fleet, "tick", changes=[{"policy": {"idle_reserve": 2}}])
        assert [(one["command"], one["to"]) for one in more["decisions"]] == [("launch", "local/worker")]
        assert all("2 reserve" in one["reason"] for one in more["decisions"])
        assert await fleet.edge.plane.stores.fleet.launches() == []
        await fleet.create()
        asked = await plan(fleet, "capacity")
        assert asked["viewVersion"] != told["viewVersion"]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({}, 400, "kind must be one of"),
        ({"kind": "guess"}, 400, "kind must be one of"),
        ({"kind": "drain"}, 400, "workerID is missing"),
        ({"kind": "wake"}, 400, "sandboxID is missing"),
        ({"kind": "drain", "request": {"workerID": "wk-none"}}, 404, "wk-none not found"),
        ({"kind": "create", "request": {"count": 0}}, 400, "count must be between"),
        ({"kind": "create", "request": {"count": 1000}}, 400, "count must be at most"),
        ({"kind": "create", "request": {"memoryMB": -1}}, 400, "amounts must be between"),
        ({"kind": "create", "request": {"memoryMB": "much"}}, 400, "request.memoryMB"),
        ({"kind": "tick", "at": "noon"}, 400, "at must be a time"),
        ({"kind": "tick", "at": "0001-01-01T00:00:00Z"}, 400, "between the years"),
        ({"kind": "tick", "changes": [{"policy": {"idle_reserve": 1}}]}, 400, "no policy of capacity"),
        ({"kind": "tick", "changes": [{"removeWorker": "wk-none"}]}, 404, "wk-none not found"),
        ({"kind": "tick", "changes": [{"moveWorker": "wk-1"}]}, 400, "no change moveWorker"),
        ({"kind": "tick", "changes": [{}]}, 400, "a change has one key"),
        ({"kind": "tick", "changes": [{"addWorkers": {}}]}, 400, "memoryMB is missing"),
    ],
)
async def test_a_question_that_says_nothing_is_told_so(
    fleet: Fleet, body: dict[str, Any], status: int, told: str
) -> None:
    answer = await fleet.client.post("/admin/plan", json=body)
    assert (answer.status_code, told in answer.json()["error"]) == (status, True), answer.text
