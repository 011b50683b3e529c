"""Previews: records, the gate, HTTP, streams and WebSockets into a guest port."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.waiting import eventually
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Response

from .conftest import Fleet, OpenFleet
from .guest_app import PORT, guest_app, host_of, socket_to


@pytest.fixture
async def app_port() -> AsyncIterator[int]:
    async with guest_app() as port:
        yield port


async def shown(fleet: Fleet, app_port: int, **body: Any) -> str:
    """Return a sandbox in which the application listens on `PORT`."""
    sandbox = await fleet.create(**body)
    open_port(fleet, sandbox, app_port)
    return sandbox


def open_port(fleet: Fleet, sandbox: str, app_port: int) -> None:
    for machine in fleet.hypervisor.machines.values():
        if machine.facts.owner == sandbox:
            machine.ports[PORT] = app_port


async def test_a_request_reaches_the_port_as_it_was_sent(fleet: Fleet, app_port: int) -> None:
    sandbox = await shown(fleet, app_port)
    async with httpx.AsyncClient(base_url=fleet.url, headers=host_of(sandbox), timeout=60) as anybody:
        seen = await anybody.post(
            "/a%2Fb/%C3%A9?x=1&y=%20",
            content=b"hello",
            headers={
                "Authorization": "Bearer app-own",
                "X-Forwarded-For": "192.0.2.7",
                "X-Forwarded-Proto": "https",
            },
        )
    echo = seen.json()
    headers = {name.lower(): value for name, value in echo["headers"]}
    assert (echo["method"], echo["target"], echo["bytes"]) == ("POST", "/a%2Fb/%C3%A9?x=1&y=%20", 5)
    assert headers["host"] == headers["x-forwarded-host"] == host_of(sandbox)["Host"]
    assert headers["x-forwarded-for"] == "192.0.2.7, 127.0.0.1"
    assert headers["x-forwarded-proto"] == "https"
    assert headers["authorization"] == "Bearer app-own"
    assert not [name for name in headers if name.startswith("x-sandfleet")]
    assert seen.headers["access-control-allow-origin"] == "https://only.example"


async def test_statuses_cookies_methods_and_large_bodies_pass(fleet: Fleet, app_port: int) -> None:
    sandbox = await shown(fleet, app_port)
    async with httpx.AsyncClient(base_url=fleet.url, headers=host_of(sandbox), timeout=60) as anybody:
        assert (await anybody.get("/teapot")).status_code == 418
        cookies = await anybody.get("/cookies")
        assert cookies.headers.get_list("set-cookie") == ["a=1", "b=2"]
        for method in ("PUT", "PATCH", "DELETE", "OPTIONS"):
            assert (await anybody.request(method, "/x")).json()["method"] == method
        assert (await anybody.head("/x")).status_code == 200
        big = 8 * 1024 * 1024

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(128):
                yield b"z" * (big // 128)

        assert (await anybody.post("/up", content=pieces())).json()["bytes"] == big
        assert (await anybody.post("/up", content=b"y" * big)).json()["bytes"] == big


async def test_events_arrive_while_the_answer_is_still_open(fleet: Fleet, app_port: int) -> None:
    sandbox = await shown(fleet, app_port)
    async with (
        httpx.AsyncClient(base_url=fleet.url, headers=host_of(sandbox), timeout=60) as anybody,
        anybody.stream("GET", "/sse?held") as answer,
    ):
        pieces = answer.aiter_raw()
        assert await anext(pieces) == b"data: 0\n\n"
        assert (await anybody.post("/sse")).status_code == 200
        rest = b"".join([piece async for piece in pieces])
    assert rest == b"data: 1\n\ndata: 2\n\n"


async def test_endless_events_do_not_hold_up_a_replica_that_goes(fleet: Fleet, app_port: int) -> None:
    """Their reader opens the stream again by itself, and finds another replica."""
    sandbox = await shown(fleet, app_port)
    async with (
        httpx.AsyncClient(base_url=fleet.url, headers=host_of(sandbox), timeout=60) as anybody,
        anybody.stream("GET", "/sse?count=2000") as answer,
        asyncio.timeout(60),
    ):
        pieces = answer.aiter_raw()
        assert await anext(pieces)
        fleet.edge.drain.leave()
        rest = [piece async for piece in pieces]
    assert len(rest) < 1000


async def test_a_closed_port_is_told_clearly(fleet: Fleet, app_port: int) -> None:
    sandbox = await shown(fleet, app_port)
    async with httpx.AsyncClient(base_url=fleet.url, timeout=60) as anybody:
        closed = await anybody.get("/", headers=host_of(sandbox, 81))
        assert (closed.status_code, closed.json()["code"]) == (502, "port_closed")
        assert closed.headers["X-Request-Id"] == closed.json()["requestId"]
        page = await anybody.get("/", headers={**host_of(sandbox, 81), "Accept": "text/html,*/*"})
        assert page.status_code == 503
        assert "http-equiv" in page.text
        assert "81" in page.text
        broken = await anybody.get("/broken", headers=host_of(sandbox))
        assert (broken.status_code, broken.json()["code"]) == (502, "port_closed")
        unknown = await anybody.get("/", headers={"Host": f"sb-{'a' * 26}-p80.x"})
        assert unknown.status_code == 404
        bare = await anybody.get("/", headers={"Host": f"{sandbox}.previews.example"})
        assert bare.json()["code"] == "not_found"
        await fleet.client.delete(f"/api/sandboxes/{sandbox}")
        assert (await anybody.get("/", headers=host_of(sandbox))).status_code == 410


async def test_a_request_waits_for_a_sandbox_that_is_coming(fleet: Fleet, app_port: int) -> None:
    sandbox = await fleet.begin_create()
    async with httpx.AsyncClient(base_url=fleet.url, timeout=60) as anybody:
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(anybody.get("/", headers=host_of(sandbox, 81)))
            fleet.hypervisor.faults.release("clone")
        assert asking.result().status_code == 502


async def test_the_gate_opens_to_its_token_only(fleet: Fleet, app_port: int) -> None:
    made = await fleet.client.post(
        "/api/sandboxes", json={"previewAuth": {"scheme": "bearer", "token": "auto"}}
    )
    sandbox, token = made.json()["sandboxID"], made.json()["previewAuthToken"]
    open_port(fleet, sandbox, app_port)
    assert len(token) >= 43
    assert "previewAuthToken" not in (await fleet.client.get(f"/api/sandboxes/{sandbox}")).json()
    async with httpx.AsyncClient(base_url=fleet.url, headers=host_of(sandbox), timeout=60) as anybody:
        shut = await anybody.get("/")
        assert (shut.status_code, shut.headers["www-authenticate"]) == (401, "Bearer")
        assert (await anybody.get("/", headers={"Authorization": "Bearer wrong"})).status_code == 401
        for sent in ({"Authorization": f"Bearer {token}"}, {"X-OC-Preview-Token": token}):
            echo = await anybody.get("/", headers=sent)
            assert echo.status_code == 200
            assert token not in echo.text
        both = {"X-OC-Preview-Token": token, "Authorization": "Bearer the-app"}
        passed = (await anybody.get("/", headers=both)).json()["headers"]
        assert ["authorization", "Bearer the-app"] in [[name.lower(), value] for name, value in passed]
        rotated = (await fleet.client.post(f"/api/sandboxes/{sandbox}/preview/rotate")).json()
        assert rotated["scheme"] == "bearer"
        assert (await anybody.get("/", headers={"X-OC-Preview-Token": token})).status_code == 401
        fresh = {"X-OC-Preview-Token": rotated["previewAuthToken"]}
        assert (await anybody.get("/", headers=fresh)).status_code == 200


async def test_a_token_of_ones_own_and_what_is_refused(fleet: Fleet) -> None:
    own = await fleet.client.post("/api/sandboxes", json={"previewAuth": {"token": "my-own-token-0123"}})
    assert own.json()["previewAuthToken"] == "my-own-token-0123"
    for wrong in ({"token": "short"}, {"scheme": "basic"}, {"token": "with space 0123456789"}):
        answer = await fleet.client.post("/api/sandboxes", json={"previewAuth": wrong})
        assert answer.json()["code"] == "invalid_argument", wrong
    assert (await fleet.client.post("/api/sandboxes", json={"previewAuth": "yes"})).status_code == 400


async def test_records(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    path = f"/api/sandboxes/{sandbox}/preview"
    made = await fleet.client.post(
        path, json={"port": 8080, "domain": "App.Example.org", "authConfig": {"a": 1}}
    )
    record = made.json()
    assert made.status_code == 201
    assert set(record) == {
        "id", "sandboxId", "orgId", "hostname", "customHostname", "port", "sslStatus", "authConfig",
        "createdAt",
    }  # fmt: skip
    domain = (await fleet.client.get(f"/api/sandboxes/{sandbox}")).json()["sandboxDomain"]
    assert record["hostname"] == f"{sandbox}-p8080.{domain}"
    assert (record["customHostname"], record["authConfig"]) == ("app.example.org", {"a": 1})
    again = await fleet.client.post(path, json={"port": 8080})
    assert (again.status_code, again.json()) == (200, record)
    await fleet.client.post(path, json={"port": 1})
    assert [one["port"] for one in (await fleet.client.get(path)).json()] == [1, 8080]
    for port in (0, 65536, None):
        assert (await fleet.client.post(path, json={"port": port})).status_code == 400
    nowhere = "/api/sandboxes/sb-unknown/preview"
    assert (await fleet.client.post(nowhere, json={"port": 0})).status_code == 400
    assert (await fleet.client.post(nowhere, json={"port": 1})).status_code == 404
    async with await fleet.other_organisation() as other:
        assert (await other.get(path)).status_code == 404
        assert (await other.delete(f"{path}/1")).status_code == 404
        assert (await other.post(f"{path}/rotate")).status_code == 404
    assert (await fleet.client.delete(f"{path}/1")).status_code == 204
    assert (await fleet.client.delete(f"{path}/1")).status_code == 404
    await fleet.client.delete(f"/api/sandboxes/{sandbox}")
    assert (await fleet.client.post(path, json={"port": 9})).status_code == 410
    assert len((await fleet.client.get(path)).json()) == 1


async def test_a_fleet_may_demand_a_record(open_fleet: OpenFleet, app_port: int) -> None:
    async with open_fleet(preview_needs_record=True) as fleet:
        sandbox = await shown(fleet, app_port)
        async with httpx.AsyncClient(base_url=fleet.url, headers=host_of(sandbox), timeout=60) as anybody:
            assert (await anybody.get("/")).status_code == 404
            await fleet.client.post(f"/api/sandboxes/{sandbox}/preview", json={"port": PORT})
            assert (await anybody.get("/")).status_code == 200


async def test_a_websocket_passes_both_ways(fleet: Fleet, app_port: int) -> None:
    sandbox = await shown(fleet, app_port)
    async with socket_to(fleet.url, sandbox, subprotocols=["other", "chat"]) as socket:
        assert socket.subprotocol == "chat"
        assert f"{sandbox}-p{PORT}" in str(await socket.recv())
        for number in range(20):
            await socket.send(f"line {number}")
            assert await socket.recv() == f"LINE {number}"
        assert 'sandfleet_ws_clients{kind="preview"} 1.0' in (await fleet.client.get("/metrics")).text
        await socket.send(b"\x00\x01" * 100_000)
        assert await socket.recv() == b"\x01\x00" * 100_000
        await socket.send("bye")
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert (socket.close_code, socket.close_reason) == (4321, "bye")


async def test_a_socket_that_the_guest_or_the_gate_refuses(fleet: Fleet, app_port: int) -> None:
    sandbox = await shown(fleet, app_port)
    assert (await refused(socket_to(fleet.url, sandbox, "/no-ws"))).status_code == 418
    await fleet.client.post(f"/api/sandboxes/{sandbox}/preview/rotate")
    response = await refused(socket_to(fleet.url, sandbox))
    said = json.loads(response.body or b"")
    assert (response.status_code, said["code"]) == (401, "preview_token")
    assert said["requestId"] == response.headers["X-Request-Id"]
    await fleet.client.delete(f"/api/sandboxes/{sandbox}")


async def test_an_open_socket_ends_with_its_sandbox(fleet: Fleet, app_port: int) -> None:
    sandbox = await shown(fleet, app_port)
    async with socket_to(fleet.url, sandbox) as socket:
        await socket.recv()
        await fleet.client.delete(f"/api/sandboxes/{sandbox}")
        await ended(socket)


async def test_a_silent_socket_does_not_keep_a_sandbox_awake(open_fleet: OpenFleet, app_port: int) -> None:
    async with open_fleet(loop_interval_s=0.1) as fleet:
        sandbox = await shown(fleet, app_port, timeout=1)
        async with socket_to(fleet.url, sandbox) as socket:
            await socket.recv()

            async def sleeps() -> bool:
                found = await fleet.client.get(f"/api/sandboxes/{sandbox}")
                return bool(found.json()["status"] == "hibernated")

            await eventually(sleeps, what="the sandbox to sleep")
            assert socket.close_code is None
            await fleet.client.delete(f"/api/sandboxes/{sandbox}")
            await ended(socket)


async def refused(connecting: connect) -> Response:
    with pytest.raises(InvalidStatus) as caught:
        async with connecting:
            raise AssertionError("the handshake should have failed")
    return caught.value.response


async def ended(socket: ClientConnection) -> None:
    """Return when the socket has been closed because its sandbox leaves, or has left."""
    try:
        async for _ in socket:
            pass
    except ConnectionClosed:
        pass
    assert socket.close_code in (1013, 4410)


async def test_a_hibernated_sandbox_is_woken_by_a_preview(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    path = f"/api/sandboxes/{sandbox}"
    assert (await fleet.client.post(f"{path}/hibernate")).status_code == 200
    async with httpx.AsyncClient(base_url=fleet.url, headers=host_of(sandbox), timeout=60) as anybody:
        closed = await anybody.get("/")
    assert (closed.status_code, closed.json()["code"]) == (502, "port_closed")
    assert (await fleet.client.get(path)).json()["status"] == "running"
