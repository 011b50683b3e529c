"""What the fleet decided, told to operators: as a list, as a stream, and by the command line."""

from __future__ import annotations

from typing import Any

from sandfleet.model.drain import DrainOwner
from sandfleet.model.launch import LaunchFailure, LaunchId
from sandfleet.planning.fleet import LaunchMachine
from sandfleet.ports.fleet_store import FleetDecision

from .conftest import Fleet
from .test_events import STREAM, Reader


async def history(fleet: Fleet, **query: str) -> list[dict[str, Any]]:
    answer = await fleet.client.get("/admin/events/history", params=query)
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()
    return rows


async def launched(fleet: Fleet, number: int = 1) -> LaunchId:
    """Have the leader ask for a machine that never comes."""
    stores, launch_id = fleet.edge.plane.stores, LaunchId(f"launch-{number:08}")
    launch = LaunchMachine(launch_id, "ec2/large", "v1", "demand: 1 workers, 2 wanted")
    term = await stores.terms.current_term()
    await stores.fleet.record(FleetDecision(DrainOwner.CAPACITY, (launch,)), term=term)
    await stores.fleet.fail(launch_id, LaunchFailure.QUOTA, said="no more of these", term=term)
    return launch_id


async def test_the_newest_of_what_the_fleet_decided_comes_first_with_its_reason(fleet: Fleet) -> None:
    sandbox, launch = await fleet.create(), await launched(fleet)
    failed, asked = await history(fleet, launch=launch)
    assert (asked["type"], asked["event"], asked["actor"]) == ("scaler", "launch_requested", "capacity")
    assert asked["reason"] == "demand: 1 workers, 2 wanted"
    assert asked["about"] == {"launch": launch, "size": "ec2/large", "version": "v1"}
    assert (failed["event"], failed["reason"]) == ("launch_failed", "quota: no more of these")
    assert failed["detail"] == "launch_failed: quota: no more of these"
    assert failed["id"] > asked["id"]
    of_fleet = await history(fleet, scope="fleet")
    assert [row["sandbox"] for row in of_fleet if row["sandbox"]] == []
    assert {"leader", "worker", "scaler"} <= {row["type"] for row in of_fleet}
    everything = await history(fleet)
    assert {row["event"] for row in everything if row["sandbox"] == sandbox} >= {"created", "placed"}
    assert all("placement" not in row["about"] for row in everything)
    mine = await history(fleet, sandbox=sandbox, type="create")
    assert {row["type"] for row in mine} == {"create"}
    assert len(await history(fleet, limit="1")) == 1
    older = await history(fleet, before=str(failed["id"]), after=str(asked["id"] - 1), type="scaler")
    assert older == [asked]
    assert await history(fleet, since=failed["at"], type="scaler") == [failed]


async def test_what_is_asked_for_must_make_sense_and_is_for_operators(fleet: Fleet) -> None:
    for query in (
        {"type": "weather"},
        {"scope": "mine"},
        {"since": "noon"},
        {"before": "-1"},
        {"limit": "0"},
    ):
        answer = await fleet.client.get("/admin/events/history", params=query)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument"), query
    async with await fleet.other_organisation() as other:
        for path in ("/admin/events", "/admin/events/history"):
            assert (await other.get(path)).status_code == 403
        assert (await other.post("/admin/events/clear")).status_code == 403


async def test_history_begins_behind_the_mark_and_nothing_is_lost(fleet: Fleet) -> None:
    launch = await launched(fleet)
    before = await history(fleet, launch=launch)
    cleared = await fleet.client.post("/admin/events/clear")
    assert cleared.json()["status"] == "cleared"
    assert await history(fleet, launch=launch) == []
    assert await history(fleet, launch=launch, before=str(10**9)) == before
    after = await launched(fleet, 2)
    assert [row["about"]["launch"] for row in await history(fleet, type="scaler")] == [after, after]


async def test_the_stream_goes_from_history_on_to_what_comes_and_is_resumed(fleet: Fleet) -> None:
    first = await launched(fleet)
    path = "/admin/events?type=scaler"
    async with fleet.client.stream("GET", path, headers=STREAM) as answer:
        reader = Reader(answer)
        assert answer.headers["Content-Type"] == "text/event-stream"
        asked, failed = await reader.next(), await reader.next()
        assert [one["data"]["about"]["launch"] for one in (asked, failed)] == [first, first]
        assert {one["event"] for one in (asked, failed)} == {"scaler"}
        second = await launched(fleet, 2)
        assert (await reader.next())["data"]["about"]["launch"] == second
    resumed = f"{path}&named=false"
    async with fleet.client.stream(
        "GET", resumed, headers={**STREAM, "Last-Event-ID": asked["id"]}
    ) as answer:
        again = await Reader(answer).next()
    assert again == {"id": failed["id"], "data": failed["data"]}


async def test_the_command_line_shows_what_the_fleet_decided(fleet: Fleet) -> None:
    launch = await launched(fleet)
    rows = await fleet.command("fleet", "events", "--type", "scaler", "--launch", launch)
    assert [row["event"] for row in rows] == ["launch_failed", "launch_requested"]
    assert {row["type"] for row in await fleet.command("fleet", "events")} >= {"leader", "worker"}
