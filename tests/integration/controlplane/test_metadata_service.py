"""The metadata service as a guest sees it, with the control plane behind it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import httpx
from tests.waiting import eventually

from .conftest import JOIN_TOKEN, Fleet, OpenFleet


async def asking(fleet: Fleet, sandbox: str) -> httpx.AsyncClient:
    """Return a client that asks from inside the sandbox."""

    def port() -> int:
        machines = fleet.hypervisor.machines.values()
        return next((one.metadata_port for one in machines if one.facts.owner == sandbox), 0)

    found = await eventually(port, what="the metadata service to listen")
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{found}", timeout=30)


async def test_each_sandbox_learns_of_itself(fleet: Fleet) -> None:
    sandboxes = [await fleet.create(), await fleet.create()]
    for sandbox in sandboxes:
        async with await asking(fleet, sandbox) as guest:
            status = await guest.get("/v1/status")
            assert status.text == f'{{"sandboxId":"{sandbox}","uptime":1.0}}'
            assert (await guest.get("/v1/metadata")).text == '{"region":"local","template":"base"}'
            limits = (await guest.get("/v1/limits")).json()
            assert set(limits) == {"cpuPercent", "memUsage", "memLimit", "pids", "netInput", "netOutput"}
            index = (await guest.get("/")).json()
            assert index == {"endpoints": ["/v1/limits", "/v1/metadata", "/v1/scale", "/v1/status"]}
            assert (await guest.get("/nothing")).status_code == 404
            assert (await guest.post("/v1/status")).status_code == 405


async def test_a_guest_changes_its_own_size_under_the_same_rules(fleet: Fleet) -> None:
    sandbox, other = await fleet.create(memoryMB=1024), await fleet.create(memoryMB=1024)
    async with await asking(fleet, sandbox) as guest:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = await guest.post("/v1/scale", content=b'{"memoryMB":2000}', headers=form)
        assert (answer.status_code, answer.text) == (200, '{"ok":true,"memoryMB":2048,"cpuPercent":100}')
        small = await guest.post("/v1/scale", json={"memoryMB": 1})
        assert (small.status_code, small.headers["content-type"].split(";")[0]) == (400, "text/plain")
        assert "memoryMB must be between" in small.text
        assert (await guest.post("/v1/scale", content=b"no json")).status_code == 400
    assert (await fleet.client.get(f"/api/sandboxes/{sandbox}")).json()["memoryMB"] == 2048
    assert (await fleet.client.get(f"/api/sandboxes/{other}")).json()["memoryMB"] == 1024


async def test_only_the_worker_that_has_it_may_ask_for_a_sandbox(fleet: Fleet) -> None:
    sandbox = await fleet.create(memoryMB=1024)
    path = f"/internal/workers/wk-1/sandboxes/{sandbox}/scale"
    body = {"memoryMB": 2048}
    epoch = {"X-Sandfleet-Epoch": "1"}
    join = {"Authorization": f"Bearer {JOIN_TOKEN}"}
    async with fleet.anonymous() as anybody:
        assert (await anybody.post(path, json=body, headers=epoch)).status_code == 401
        wrong: dict[str, Any] = {"X-Sandfleet-Epoch": "7", **join}
        assert (await anybody.post(path, json=body, headers=wrong)).status_code == 404
        elsewhere = path.replace("wk-1", "wk-2")
        assert (await anybody.post(elsewhere, json=body, headers={**epoch, **join})).status_code == 404
        assert (await anybody.post(path, json=body, headers={**epoch, **join})).status_code == 200


async def test_a_guest_that_polls_does_not_keep_itself_awake(open_fleet: OpenFleet) -> None:
    async with open_fleet(loop_interval_s=0.1) as fleet:
        sandbox = await fleet.create(timeout=1)
        async with await asking(fleet, sandbox) as guest:

            async def is_asleep() -> bool:
                with suppress(httpx.HTTPError):  # the port may be there when nobody answers any more
                    await guest.get("/v1/status", timeout=1)
                seen = (await fleet.client.get(f"/api/sandboxes/{sandbox}")).json()
                return seen["status"] in ("hibernating", "hibernated", "stopped")

            await eventually(is_asleep, what="the sandbox to fall asleep")
