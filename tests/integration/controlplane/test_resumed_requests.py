"""A request whose first attempt was held up or cut off: what was begun under its ids is the one result."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from sandfleet.controlplane.dependencies import CreateOrder
from sandfleet.controlplane.http import idempotency
from sandfleet.model.errors import NotFound
from sandfleet.model.organisation import Caps
from sandfleet.model.sandbox import Sandbox

from .conftest import Fleet
from .test_idempotency import key, lose_claims


class Held:
    """A verb of the control plane of which the first call stops before it does anything."""

    def __init__(self, verb: Callable[..., Awaitable[Any]]) -> None:
        self._verb = verb
        self.is_reached = asyncio.Event()
        self.may_go_on = asyncio.Event()

    async def __call__(self, *given: Any, **named: Any) -> Any:
        if not self.is_reached.is_set():
            self.is_reached.set()
            await self.may_go_on.wait()
        return await self._verb(*given, **named)


async def overtaken(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, *, verb: str, path: str, body: Any = None
) -> tuple[httpx.Response, httpx.Response]:
    """Send a request, hold it up for longer than its claim, send it again, and let the first go on."""
    monkeypatch.setattr(idempotency, "JOINED_LEASE_S", 600.0)  # not renewed after it was lost
    held = Held(getattr(fleet.edge.lifecycle, verb))
    monkeypatch.setattr(fleet.edge.lifecycle, verb, held)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(fleet.client.post(path, json=body, headers=key()))
        await held.is_reached.wait()
        await lose_claims(fleet)
        second = await fleet.client.post(path, json=body, headers=key())
        held.may_go_on.set()
    return first.result(), second


@pytest.mark.parametrize(
    ("verb", "path", "body", "status"),
    [
        ("restart", "reboot", None, 204),
        ("checkpoint", "checkpoints", {"name": "one"}, 201),
        ("hibernate", "hibernate", None, 200),
        ("resize", "scale", {"memoryMB": 2048}, 200),
    ],
)
async def test_an_attempt_that_was_overtaken_has_the_result_of_the_other(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, verb: str, path: str, body: Any, status: int
) -> None:
    """By then the row has another version, the name is taken, the id exists: it was this very request."""
    whole = f"/api/sandboxes/{await fleet.create()}/{path}"
    first, second = await overtaken(fleet, monkeypatch, verb=verb, path=whole, body=body)
    assert (first.status_code, second.status_code) == (status, status), first.text
    if path == "checkpoints":  # which may have become ready meanwhile
        assert first.json()["id"] == second.json()["id"]
    else:
        assert first.content == second.content


async def test_a_create_that_was_overtaken_is_one_sandbox(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await overtaken(fleet, monkeypatch, verb="create", path="/api/sandboxes", body={})
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["sandboxID"] == second.json()["sandboxID"]
    assert len((await fleet.client.get("/api/sandboxes")).json()) == 1


async def test_a_create_of_unknown_outcome_is_gone_on_with_whatever_its_answer_was(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even what has changed since may refuse it: the sandbox is there."""
    create, orders = fleet.edge.lifecycle.create, []

    async def lost(order: CreateOrder) -> Sandbox:
        orders.append(order)
        await create(order)
        raise ConnectionResetError

    with monkeypatch.context() as broken:
        broken.setattr(fleet.edge.lifecycle, "create", lost)
        assert (await fleet.client.post("/api/sandboxes", json={}, headers=key())).status_code == 500
    await fleet.edge.plane.stores.organisations.change(
        orders[0].organisation_id, name=None, quotas=None, caps=Caps(memory_mib=1)
    )
    made = await fleet.client.post("/api/sandboxes", json={}, headers=key())
    assert made.status_code == 201, made.text
    found = (await fleet.client.get("/api/sandboxes")).json()
    assert [one["sandboxID"] for one in found] == [made.json()["sandboxID"]]


async def test_what_never_began_is_refused_as_if_it_were_asked_for_the_first_time(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the attempt is its answer when no operation stands behind it."""
    sandbox = await fleet.create()

    async def refused(*_given: Any, **_named: Any) -> Any:
        raise NotFound("there is no such thing")

    monkeypatch.setattr(fleet.edge.lifecycle, "restart", refused)
    answer = await fleet.client.post(f"/api/sandboxes/{sandbox}/reboot", headers=key())
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
