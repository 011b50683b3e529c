"""Calls on sandboxes that are not ready: they wait, within bounds, and never fail for being early."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.waiting import eventually

from .conftest import Fleet, OpenFleet


async def test_a_data_plane_call_waits_for_the_sandbox(fleet: Fleet) -> None:
    sandbox = await fleet.begin_create()
    async with asyncio.TaskGroup() as group:
        run = group.create_task(
            fleet.client.post(f"/api/sandboxes/{sandbox}/exec/run", json={"cmd": "echo early"})
        )
        write = group.create_task(
            fleet.client.put(f"/api/sandboxes/{sandbox}/files?path=/tmp/x", content=b"early")
        )
        await fleet.hypervisor.faults.reached("clone")
        assert not run.done()
        fleet.hypervisor.faults.release("clone")
    assert run.result().json() == {"exitCode": 0, "stdout": "early\n", "stderr": ""}
    assert write.result().status_code == 204
    assert (await fleet.client.get(f"/api/sandboxes/{sandbox}/files?path=/tmp/x")).content == b"early"


async def test_the_wait_ends_with_when_to_come_again(open_fleet: OpenFleet) -> None:
    async with open_fleet(sandbox_wait_s=0.3) as fleet:
        sandbox = await fleet.begin_create()
        for method, path in (("GET", "files?path=/x"), ("POST", "exec/run")):
            answer = await fleet.client.request(
                method, f"/api/sandboxes/{sandbox}/{path}", json={"cmd": "true"}
            )
            assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
            assert int(answer.headers["Retry-After"]) >= 1
        fleet.hypervisor.faults.release("clone")


async def test_a_malformed_call_does_not_wait(fleet: Fleet) -> None:
    sandbox = await fleet.begin_create()
    answer = await fleet.client.post(f"/api/sandboxes/{sandbox}/exec/run", json={"cmd": ""})
    assert answer.status_code == 400
    assert (await fleet.client.get(f"/api/sandboxes/{sandbox}/files")).status_code == 400
    fleet.hypervisor.faults.release("clone")


async def test_a_kill_ends_the_wait(fleet: Fleet) -> None:
    sandbox = await fleet.begin_create()
    async with asyncio.TaskGroup() as group:
        run = group.create_task(fleet.client.post(f"/api/sandboxes/{sandbox}/exec/run", json={"cmd": "echo"}))
        await fleet.hypervisor.faults.reached("clone")
        assert (await fleet.client.delete(f"/api/sandboxes/{sandbox}")).status_code == 204
    assert (run.result().status_code, run.result().json()["code"]) == (410, "gone")
    fleet.hypervisor.faults.release("clone")


async def test_the_25_second_rule(open_fleet: OpenFleet) -> None:
    async with open_fleet(answer_by_s=0.3) as fleet:
        fleet.hypervisor.faults.hold("clone")
        answer = await fleet.client.post("/api/sandboxes")
        assert (answer.status_code, answer.json()["status"]) == (201, "creating")
        fleet.hypervisor.faults.release("clone")
        sandbox = answer.json()["sandboxID"]
        run = await fleet.client.post(f"/api/sandboxes/{sandbox}/exec/run", json={"cmd": "true"})
        assert run.status_code == 200
        assert (await fleet.client.get(f"/api/sandboxes/{sandbox}")).json()["status"] == "running"


async def test_prefer_sets_another_limit(open_fleet: OpenFleet) -> None:
    async with open_fleet(answer_by_s=0.2) as fleet:
        fleet.hypervisor.faults.hold("clone")
        async with asyncio.TaskGroup() as group:
            create = group.create_task(fleet.client.post("/api/sandboxes", headers={"Prefer": "wait=50"}))
            await fleet.hypervisor.faults.reached("clone")
            short = await fleet.client.post("/api/sandboxes")
            assert short.json()["status"] == "creating"
            assert not create.done()
            fleet.hypervisor.faults.release("clone")
        assert create.result().json()["status"] == "running"


async def test_run_async_gives_its_handle_at_once(fleet: Fleet) -> None:
    sandbox = await fleet.begin_create()
    answer = await fleet.client.post(f"/api/sandboxes/{sandbox}/exec/run-async", json={"cmd": "echo later"})
    handle = answer.json()
    assert answer.status_code == 202
    assert (handle["running"], handle["waking"]) == (True, True)
    assert "exitCode" not in handle
    result = f"/api/sandboxes/{sandbox}/exec/{handle['execId']}/result"
    assert (await fleet.client.get(result)).json() == {
        "running": True, "waking": True, "stdout": "", "stderr": "",
    }  # fmt: skip
    fleet.hypervisor.faults.release("clone")

    async def ended() -> dict[str, Any] | None:
        seen: dict[str, Any] = (await fleet.client.get(result)).json()
        return None if seen["running"] else seen

    seen = await eventually(ended, what="the command to end") or {}
    assert (seen["exitCode"], seen["stdout"]) == (0, "later\n")


async def test_async_wake_is_told_to_come_again(
    open_fleet: OpenFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandfleet.controlplane.api.files.ASYNC_WAKE_WAIT_S", 0.2)
    async with open_fleet() as fleet:
        sandbox = await fleet.begin_create()
        answer = await fleet.client.get(
            f"/api/sandboxes/{sandbox}/files/list", headers={"X-OSB-Async-Wake": "1"}
        )
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        body = answer.json()
        assert (body["code"], body["waking"]) == ("waking", True)
        assert set(body) == {"error", "code", "waking", "requestId"}
        fleet.hypervisor.faults.release("clone")


async def test_a_long_command_is_padded(open_fleet: OpenFleet) -> None:
    async with open_fleet(exec_pad_after_s=0.1, exec_pad_every_s=0.1) as fleet:
        sandbox = await fleet.create()
        run = f"/api/sandboxes/{sandbox}/exec/run"
        async with fleet.client.stream("POST", run, json={"cmd": "held"}) as answer:
            assert answer.status_code == 200
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["X-Accel-Buffering"] == "no"
            assert answer.headers["Content-Type"] == "application/json"
            assert "Content-Length" not in answer.headers
            pieces, padding = answer.aiter_raw(), b""
            while len(padding) < 4:  # one after the other, as long as the command goes on
                padding += await anext(pieces)
            fleet.shell.let_go()
            body = b"".join([piece async for piece in pieces])
        assert padding.strip(b" ") == b""
        assert json.loads(body)["stdout"] == "begun\nended\n"


async def test_an_error_after_the_first_byte_is_a_result(open_fleet: OpenFleet) -> None:
    async with open_fleet(exec_pad_after_s=0.1, exec_pad_every_s=0.1) as fleet:
        sandbox = await fleet.begin_create()
        run = f"/api/sandboxes/{sandbox}/exec/run"
        async with fleet.client.stream("POST", run, json={"cmd": "echo"}) as answer:
            pieces = answer.aiter_raw()
            assert (await anext(pieces)).strip(b" ") == b""
            await fleet.client.delete(f"/api/sandboxes/{sandbox}")
            body = json.loads(b"".join([piece async for piece in pieces]))
        assert answer.status_code == 200
        assert (body["exitCode"], body["stdout"], body["code"]) == (-1, "", "gone")
        assert body["error"] == body["stderr"] == f"sandbox {sandbox} has been stopped"
        assert body["requestId"] == answer.headers["X-Request-Id"]
        fleet.hypervisor.faults.release("clone")
