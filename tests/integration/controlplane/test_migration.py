"""Migration through the API: two real worker services on fake hosts; what runs inside goes along."""

from __future__ import annotations

import asyncio
from typing import Any

from sandfleet.model.errors import HypervisorFailed

from .movable import POLLS_MAX, Pair, moved


async def test_what_runs_inside_goes_along(pair: Pair) -> None:
    sandbox, home, away = await pair.create()
    path = f"/api/sandboxes/{sandbox}"
    await pair.client.put(f"{path}/files?path=/home/sandbox/kept", content=b"kept")
    answer = await moved(pair, sandbox, away)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["sandboxID"], body["sourceWorker"], body["targetWorker"]) == (sandbox, home, away)
    assert (body["elapsedMs"] > 0, body["downtimeMs"] >= 0, body["pending"]) == (True, True, False)
    assert (await pair.client.get(path)).json()["status"] == "running"
    assert (await pair.client.get(f"{path}/files?path=/home/sandbox/kept")).content == b"kept"
    assert await pair.until_cleared() == {home: 0, away: 1024}
    assert list(pair.hosts[home].machines.values()) == []
    text = (await pair.client.get("/metrics")).text
    assert "sandfleet_migration_downtime_seconds_count 1.0" in text
    events = [one["event"] for one in (await pair.client.get(f"{path}/events")).json()]
    assert events[:3] == ["migrated", "moved", "migrate_requested"]


async def test_calls_go_on_while_it_moves_and_progress_is_told(pair: Pair) -> None:
    sandbox, home, _ = await pair.create()
    path = f"/api/sandboxes/{sandbox}"
    pair.hosts[home].faults.hold("send")
    begun = await moved(pair, sandbox, "*", Prefer="respond-async")
    assert (begun.status_code, begun.json()["pending"]) == (202, True)
    assert (await pair.client.get(path)).json()["status"] == "migrating"
    ran = await pair.client.post(f"{path}/exec/run", json={"cmd": "echo here"})
    assert ran.json()["stdout"] == "here\n"
    assert (await moved(pair, sandbox, "wk-none")).status_code == 404  # it does not wait for its turn
    shown = (await pair.client.get(f"{path}/migrate")).json()
    assert (shown["sourceWorker"], shown["step"] in ("receive", "send")) == (home, True)
    pair.hosts[home].faults.release("send")
    assert sum((await pair.until_cleared()).values()) == 1024
    assert (await pair.client.get(f"{path}/migrate")).status_code == 404
    ran = await pair.client.post(f"{path}/exec/run", json={"cmd": "echo there"})
    assert ran.json()["stdout"] == "there\n"


async def test_calls_wait_while_it_stands_still(pair: Pair) -> None:
    sandbox, home, away = await pair.create()
    pair.hosts[home].faults.hold("hand_over")
    async with asyncio.TaskGroup() as group:
        moving = group.create_task(moved(pair, sandbox, away))
        await pair.hosts[home].faults.reached("hand_over")
        run = pair.client.post(f"/api/sandboxes/{sandbox}/exec/run", json={"cmd": "echo waited"})
        running = group.create_task(run)
        await asyncio.sleep(0.2)
        assert not running.done()
        pair.hosts[home].faults.release("hand_over")
    assert moving.result().status_code == 200
    assert running.result().json()["stdout"] == "waited\n"


async def test_a_move_that_fails_says_why_and_changes_nothing(pair: Pair) -> None:
    sandbox, home, away = await pair.create()
    pair.hosts[home].faults.fail("hand_over", HypervisorFailed("the cable was cut"))
    answer = await moved(pair, sandbox, away)
    assert (answer.status_code, answer.json()["code"]) == (503, "target_unavailable")
    assert "the cable was cut" in answer.json()["error"]
    ran = await pair.client.post(f"/api/sandboxes/{sandbox}/exec/run", json={"cmd": "echo here"})
    assert ran.json()["stdout"] == "here\n"
    assert await pair.until_cleared() == {home: 1024, away: 0}
    assert list(pair.hosts[away].machines.values()) == []


async def test_what_is_refused(pair: Pair) -> None:
    sandbox, home, away = await pair.create()
    expected = [
        (None, 400, "bad_request"),
        (home, 400, "same_worker"),
        ("wk-none", 404, "not_found"),
        ("wk-1", 503, "target_unavailable"),
    ]
    for target, status, code in expected:
        answer = await moved(pair, sandbox, target)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    for target in (away, None):  # whether there is such a sandbox comes before what is asked of it
        assert (await moved(pair, "sb-" + "a" * 26, target)).status_code == 404
    async with await pair.fleet.other_organisation() as other:
        answer = await other.post(f"/api/sandboxes/{sandbox}/migrate", json={"targetWorker": away})
        assert answer.status_code == 403
    await pair.client.delete(f"/api/sandboxes/{sandbox}")
    for target in (away, None):
        assert (await moved(pair, sandbox, target)).status_code == 410


async def test_a_worker_is_drained_and_takes_sandboxes_again(pair: Pair) -> None:
    sandbox, home, _ = await pair.create()
    drain = f"/admin/workers/{home}/drain"
    assert (await pair.client.get(drain)).json()["state"] == "none"
    begun = await pair.client.post(drain)
    assert (begun.status_code, begun.json()["workerID"], begun.json()["draining"]) == (200, home, True)
    shown = begun.json()
    for _ in range(POLLS_MAX):
        if shown["state"] == "drained":
            break
        await asyncio.sleep(0.02)
        shown = (await pair.client.get(drain)).json()
    assert (shown["state"], shown["moved"], shown["remaining"]) == ("drained", 1, 0), shown
    ran = await pair.client.post(f"/api/sandboxes/{sandbox}/exec/run", json={"cmd": "echo there"})
    assert ran.json()["stdout"] == "there\n"
    assert (await pair.workers())[home]["draining"]
    undone = await pair.client.post(f"{drain}?drain=false")
    assert (undone.status_code, undone.json()["draining"]) == (200, False)
    assert (await moved(pair, sandbox, home)).status_code == 200


async def test_of_a_drain_that_goes_nowhere_each_reason_is_told(pair: Pair) -> None:
    sandbox, home, away = await pair.create()
    for worker in (away, home, home):  # away first: else the sandbox is on its way there meanwhile
        assert (await pair.client.post(f"/admin/workers/{worker}/drain")).status_code == 200
    shown: dict[str, Any] = {}
    for _ in range(POLLS_MAX):
        shown = (await pair.client.get(f"/admin/workers/{home}/drain")).json()
        if any(stay["why"] == "held" for stay in shown["sandboxes"]):
            break
        await asyncio.sleep(0.02)
    (stay,) = shown["sandboxes"]
    assert (stay["sandboxID"], stay["why"], shown["remaining"]) == (sandbox, "held", 1)
    assert f"{away} is draining" in stay["reason"]
    for worker in (home, away):
        assert not (await pair.client.post(f"/admin/workers/{worker}/undrain")).json()["draining"]
    assert (await pair.client.post("/admin/workers/wk-none/drain")).status_code == 404
    assert (await pair.client.post(f"/admin/workers/{home}/drain?drain=maybe")).status_code == 400
    async with await pair.fleet.other_organisation() as other:
        assert (await other.post(f"/admin/workers/{home}/drain")).status_code == 403


async def test_a_drain_past_its_deadline_is_stuck_everywhere_it_is_shown(pair: Pair) -> None:
    sandbox, home, away = await pair.create()
    drain = f"/admin/workers/{home}/drain"
    assert (await pair.client.post(f"/admin/workers/{away}/drain")).status_code == 200
    begun = (await pair.client.post(f"{drain}?deadline_s=0&hibernate=false&reason=a%20new%20disk")).json()
    assert (begun["reason"], begun["hibernates"]) == ("a new disk", False)
    assert begun["deadlineAt"] == begun["begunAt"]
    shown: dict[str, Any] = {}
    for _ in range(POLLS_MAX):
        shown = (await pair.client.get(drain)).json()
        if shown["state"] == "stuck":
            break
        await asyncio.sleep(0.02)
    assert shown["stuckAt"] is not None
    assert [stay["sandboxID"] for stay in shown["sandboxes"]] == [sandbox]
    metrics = (await pair.client.get("/metrics")).text
    assert f'sandfleet_worker_drain_stuck{{worker="{home}"}} 1.0' in metrics
    assert 'sandfleet_worker_drains{state="stuck"} 1.0' in metrics
    later = (await pair.client.post(f"{drain}?deadline_s=600")).json()
    assert later["deadlineAt"] > begun["deadlineAt"]
    for wrong in ("deadline_s=soon", "deadline_s=-1", "hibernate=maybe"):
        assert (await pair.client.post(f"{drain}?{wrong}")).status_code == 400
    for worker in (home, away):
        await pair.client.post(f"/admin/workers/{worker}/undrain")
    assert "drain_stuck{" not in (await pair.client.get("/metrics")).text


async def test_what_others_have_room_for_is_evicted_and_the_rest_says_why(pair: Pair) -> None:
    sandbox, home, away = await pair.create()
    evict = f"/admin/workers/{home}/evict"
    await pair.client.post(f"/admin/workers/{away}/drain")
    nowhere = (await pair.client.post(evict)).json()
    assert (nowhere["workerID"], nowhere["evicted"], nowhere["remaining"]) == (home, [], 1)
    assert f"{away} is draining" in nowhere["sandboxes"][0]["reason"]
    await pair.client.post(f"/admin/workers/{away}/undrain")
    gone = (await pair.client.post(evict)).json()
    assert [(one["sandboxID"], one["to"]) for one in gone["evicted"]] == [(sandbox, away)]
    assert (gone["remaining"], gone["evicted"][0]["reason"][:8]) == (0, "best fit")
    for _ in range(POLLS_MAX):
        row = (await pair.client.get(f"/api/sandboxes/{sandbox}")).json()
        if (row["workerID"], row["status"]) == (away, "running"):
            break
        await asyncio.sleep(0.02)
    assert (row["workerID"], row["status"]) == (away, "running")
    assert not (await pair.workers())[home]["draining"]
    assert (await pair.client.post("/admin/workers/wk-none/evict")).status_code == 404


async def test_a_size_that_does_not_fit_moves_the_sandbox_and_is_given_there(pair: Pair) -> None:
    sandbox, _, away = await pair.create()
    filler = await pair.client.post("/api/sandboxes", json={"memoryMB": 7168})
    assert filler.status_code == 201, filler.text
    scaled = await pair.client.post(f"/api/sandboxes/{sandbox}/scale", json={"memoryMB": 2048})
    assert scaled.status_code == 200, scaled.text
    body = scaled.json()
    assert (body["workerID"], body["memoryMB"], body["migrated"]) == (away, 2048, True)
    ran = await pair.client.post(f"/api/sandboxes/{sandbox}/exec/run", json={"cmd": "echo there"})
    assert ran.json()["stdout"] == "there\n"
    more = await pair.client.post(f"/api/sandboxes/{sandbox}/scale", json={"memoryMB": 8320})
    assert (more.status_code, more.json()["code"]) == (503, "no_capacity")
    assert f"worker {away} is short of" in more.json()["error"]
    for one in (sandbox, filler.json()["sandboxID"]):
        await pair.client.delete(f"/api/sandboxes/{one}")
