"""Why a sandbox is where it is, and what the planners would do: told through the API, done by nobody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx

from .conftest import Fleet, OpenFleet
from .test_migration import Pair, moved


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


GIVEN = {
    "workers": [
        {
            "workerID": "wk-x",
            "memoryMB": 8192,
            "hostMemoryMB": 8192,
            "memoryUsedMB": 8100,
            "size": "ec2/large",
            "sandboxes": [
                {"memoryMB": 2048, "memoryUsedMB": 2000, "diskUsedMB": 1, "cpuUsed": 0.1, "count": 3}
            ],
        },
        {"workerID": "wk-y", "memoryMB": 8192, "hostMemoryMB": 8192, "size": "ec2/large"},
        {"workerID": "wk-z", "memoryMB": 8192, "draining": True, "templates": []},
    ],
    "waiting": [{"memoryMB": 8192, "count": 2}],
    "policy": {"workers_max": 9, "sizes": [{"name": "ec2/large", "memoryMB": 8192}]},
}


async def test_a_fleet_that_is_described_is_planned_on_in_place_of_the_real_one(
    fleet: Fleet, tmp_path: Path
) -> None:
    told = await plan(fleet, "pressure", view=GIVEN)
    # Neither host says what disk and cores it has, so nobody can be sent to the other one.
    assert (told["rejected"][0]["subject"], told["rejected"][0]["filter"]) == ("wk-x", "pressure")
    hosts = [{**one, "hostDiskMB": 10**6, "hostCpus": 8} for one in GIVEN["workers"][:2]]
    roomy = await plan(fleet, "pressure", view={**GIVEN, "workers": hosts})
    assert [(one["command"], one["to"]) for one in roomy["decisions"]] == [("move", "wk-y")]
    placed = await plan(fleet, "create", request={"memoryMB": 4096}, view=GIVEN)
    assert [one["to"] for one in placed["decisions"]] == ["wk-y"]
    why = {one["workerId"]: one["filter"] for one in placed["rejected"]}
    assert why == {"wk-x": "used", "wk-z": "cordoned"}
    sized = await plan(fleet, "capacity", view=GIVEN)
    assert [(one["command"], one["to"]) for one in sized["decisions"]] == [("launch", "ec2/large")] * len(
        sized["decisions"]
    )
    assert sized["decisions"]
    again = await plan(fleet, "capacity", view=GIVEN, at=sized["at"])
    assert again == sized
    path = tmp_path / "fleet.json"
    path.write_text(json.dumps(GIVEN), encoding="utf-8")
    shown = await fleet.command("plan", "capacity", "--view", str(path))
    assert shown["decisions"] == sized["decisions"]
    assert await fleet.edge.plane.stores.fleet.launches() == []


async def test_from_a_host_on_which_nobody_lives_nobody_is_sent_away(fleet: Fleet) -> None:
    told = await plan(fleet, "pressure")
    assert told["summary"]  # what this very host is short of now nobody knows
    assert told["decisions"] == []


QUESTIONS: list[tuple[dict[str, Any], int, str]] = [
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
    ({"kind": "tick", "view": {}}, 400, "view.workers must be 1 to"),
    ({"kind": "tick", "view": {"workers": [{"memoryMB": "much"}]}}, 400, "view.workers.0.memoryMB"),
    ({"kind": "tick", "view": {"workers": [{"memoryMB": -1}]}}, 400, "between 0 and"),
    ({"kind": "tick", "view": {"workers": [{"state": "tired"}]}}, 400, "must be one of"),
    ({"kind": "tick", "view": {"workers": [{"workerID": "a"}, {"workerID": "a"}]}}, 400, "twice"),
    ({"kind": "tick", "view": {"workers": [{"sandboxes": [{"count": 10**9}]}]}}, 400, "at most"),
    ({"kind": "tick", "view": {"workers": [{}], "policy": {"sizes": [{}]}}}, 400, "memoryMB"),
]


async def test_a_question_that_says_nothing_is_told_so(fleet: Fleet) -> None:
    for body, status, told in QUESTIONS:
        answer = await fleet.client.post("/admin/plan", json=body)
        assert (answer.status_code, told in answer.json()["error"]) == (status, True), (body, answer.text)
