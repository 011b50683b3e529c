"""Reboot and power-cycle through the API."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.waiting import eventually

from sandfleet.model.errors import HypervisorFailed

from .conftest import Fleet


def machine_of(fleet: Fleet, sandbox: str) -> Any:
    return next(one for one in fleet.hypervisor.machines.values() if one.facts.owner == sandbox)


@pytest.mark.parametrize(("verb", "is_clean"), [("reboot", True), ("power-cycle", False)])
async def test_disk_identity_and_size_stay_and_processes_go(fleet: Fleet, verb: str, is_clean: bool) -> None:
    sandbox = await fleet.create(envs={"KEPT": "yes"})
    path = f"/api/sandboxes/{sandbox}"
    await fleet.client.put(f"{path}/files?path=/home/sandbox/kept", content=b"kept")
    await fleet.client.put(f"{path}/limits", json={"memoryMB": 2048, "cpuPercent": 70})
    answer = await fleet.client.post(f"{path}/{verb}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert fleet.hypervisor.restarts == [is_clean]
    seen = (await fleet.client.get(path)).json()
    assert (seen["status"], seen["memoryMB"]) == ("running", 2048)
    assert (await fleet.client.get(f"{path}/files?path=/home/sandbox/kept")).content == b"kept"
    guest = machine_of(fleet, sandbox).guest
    assert guest.identities[-1].is_known
    assert (guest.identities[-1].host_name, dict(guest.identities[-1].envs)) == (sandbox, {"KEPT": "yes"})
    assert guest.limits["cpu_percent"] == 70
    events = [one["event"] for one in (await fleet.client.get(f"{path}/events")).json()]
    assert events[:2] == ["rebooted", "reboot_requested"]


async def test_calls_wait_while_it_comes_back(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    path = f"/api/sandboxes/{sandbox}"
    fleet.hypervisor.faults.hold("restart")
    begun = await fleet.client.post(f"{path}/reboot", headers={"Prefer": "respond-async"})
    assert begun.status_code == 204
    assert (await fleet.client.get(path)).json()["status"] == "rebooting"
    async with asyncio.TaskGroup() as group:
        running = group.create_task(fleet.client.post(f"{path}/exec/run", json={"cmd": "echo back"}))
        await asyncio.sleep(0.1)
        fleet.hypervisor.faults.release("restart")
    assert running.result().json()["stdout"] == "back\n"


async def test_a_boot_that_fails_says_why(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    fleet.hypervisor.faults.fail("restart", HypervisorFailed("no kernel"))
    answer = await fleet.client.post(f"/api/sandboxes/{sandbox}/power-cycle")
    assert answer.status_code in (410, 500)


async def test_a_kill_wins_over_a_reboot(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    fleet.hypervisor.faults.hold("restart")
    await fleet.client.post(f"/api/sandboxes/{sandbox}/reboot", headers={"Prefer": "respond-async"})
    assert (await fleet.client.delete(f"/api/sandboxes/{sandbox}")).status_code == 204
    fleet.hypervisor.faults.release("restart")
    await eventually(lambda: not fleet.hypervisor.machines, what="the machine to end")
    assert (await fleet.client.post(f"/api/sandboxes/{sandbox}/reboot")).status_code == 410


async def test_what_is_not_there_or_not_theirs(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    async with await fleet.other_organisation() as other:
        for verb in ("reboot", "power-cycle"):
            assert (await other.post(f"/api/sandboxes/{sandbox}/{verb}")).status_code == 404
