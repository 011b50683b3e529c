"""A sandbox's log as a stream: oldest first, live, resumed by id, and never in the way of a stop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from sandfleet_sdk import AsyncClient, NotFound

from .conftest import BOOTSTRAP_KEY, Fleet, OpenFleet

STREAM = {"Accept": "text/event-stream"}
WITHIN_S = 30


class Reader:
    """Reads one stream event by event."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def next(self) -> dict[str, Any]:
        """Return the next event or comment as its fields."""
        fields: dict[str, Any] = {}
        async with asyncio.timeout(WITHIN_S):
            async for line in self._lines:
                if not line:
                    return fields
                name, _, value = line.partition(": ")
                fields[name or "comment"] = json.loads(value) if name == "data" else value
        raise EOFError

    async def until(self, event: str) -> list[dict[str, Any]]:
        """Return the events up to the one of that name."""
        seen = [await self.next()]
        while seen[-1].get("event") != event:
            seen.append(await self.next())
        return [one for one in seen if "event" in one]


@asynccontextmanager
async def reading(
    client: httpx.AsyncClient, sandbox: str, *, headers: dict[str, str] | None = None, query: str = ""
) -> AsyncIterator[Reader]:
    path = f"/api/sandboxes/{sandbox}/events{query}"
    async with client.stream("GET", path, headers={**STREAM, **(headers or {})}) as answer:
        yield Reader(answer)


async def test_the_stream_begins_with_the_oldest_and_goes_on_live(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    async with reading(fleet.client, sandbox) as reader:
        assert reader.answer.headers["Content-Type"] == "text/event-stream"
        assert reader.answer.headers["Cache-Control"] == "no-cache"
        before = await reader.until("booted")
        assert before[0]["event"] == "created"
        await fleet.client.delete(f"/api/sandboxes/{sandbox}")
        killed = (await reader.until("kill_requested"))[-1]
        assert killed["data"]["to"] == "stopped"
    listed = (await fleet.client.get(f"/api/sandboxes/{sandbox}/events")).json()
    (as_listed,) = [row for row in listed if row["id"] == int(killed["id"])]
    assert as_listed == killed["data"]
    numbers = [int(one["id"]) for one in before]
    assert numbers == sorted(set(numbers))


async def test_a_reader_goes_on_after_the_last_it_saw(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    async with reading(fleet.client, sandbox) as reader:
        first, second = await reader.next(), await reader.next()
    for headers, query in (
        ({"Last-Event-ID": first["id"]}, ""),
        ({}, f"?after={first['id']}"),
        ({"Last-Event-ID": first["id"]}, "?after=0"),  # what it saw counts, not where it once began
    ):
        async with reading(fleet.client, sandbox, headers=headers, query=query) as reader:
            assert await reader.next() == second
    for headers, query in (({"Last-Event-ID": "x"}, ""), ({}, "?after=-1")):
        async with reading(fleet.client, sandbox, headers=headers, query=query) as reader:
            assert reader.answer.status_code == 400
            assert json.loads(await reader.answer.aread())["code"] == "invalid_argument"


async def test_a_reader_is_told_of_rows_that_are_no_longer_kept(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    listed = (await fleet.client.get(f"/api/sandboxes/{sandbox}/events")).json()
    first, oldest_kept = listed[-1]["id"], listed[-2]["id"]
    database = fleet.edge.plane.stores.log._database  # type: ignore[attr-defined]
    async with database.transaction() as connection:
        await connection.execute(text("DELETE FROM transitions WHERE id = :id"), {"id": first})
    async with reading(fleet.client, sandbox, query=f"?after={first}") as reader:
        gap, following = await reader.next(), await reader.next()
    assert gap == {"event": "gap", "data": {"oldest": oldest_kept}}
    assert following["id"] == str(oldest_kept)


async def test_a_silent_stream_says_that_it_lives_and_ends_with_its_replica(open_fleet: OpenFleet) -> None:
    async with open_fleet(sse_keepalive_s=0.05) as fleet:
        sandbox = await fleet.create()
        async with reading(fleet.client, sandbox) as reader:
            await reader.until("booted")
            assert await reader.next() == {"comment": "keepalive"}
            fleet.edge.drain.give_notice()
            async with asyncio.timeout(WITHIN_S):
                async for _ in reader._lines:  # at most a comment that was under way, then the end
                    pass


async def test_a_sandbox_of_others_has_no_stream(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    async with await fleet.other_organisation() as other:
        path = f"/api/sandboxes/{sandbox}/events"
        refused = await other.get(path, headers=STREAM)
        unknown = await other.get(path.replace(sandbox, f"sb-{'a' * 26}"), headers=STREAM)
    assert refused.status_code == unknown.status_code == 404
    assert refused.json()["error"] == unknown.json()["error"]


async def test_the_client_follows_a_sandbox_to_its_end(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    async with AsyncClient(fleet.url, BOOTSTRAP_KEY) as client:
        seen = []
        async with asyncio.timeout(WITHIN_S):
            async for event in client.sandboxes.follow_events(sandbox):
                seen.append(event.event)
                if event.after == "running":
                    await client.sandboxes.kill(sandbox)
                if event.after == "stopped":
                    break
        assert seen[0] == "created"
        with pytest.raises(NotFound):
            await anext(aiter(client.sandboxes.follow_events(f"sb-{'a' * 26}")))
