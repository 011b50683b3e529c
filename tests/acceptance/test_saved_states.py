"""Hibernate, wake, checkpoints, restore and forks of real machines, with the published Python client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from opencomputer import Sandbox
from tests.acceptance.live_fleet import LiveFleet

from sandfleet.adapters.clock import SystemClock

pytestmark = [pytest.mark.timeout(420)]

START_COUNTING = (
    "setsid sh -c 'i=0; while :; do i=$((i+1)); echo $i > /dev/shm/count; sleep 0.1; done' >/dev/null 2>&1 & "
    "echo $! > /tmp/pid"
)
COUNTED = "until [ -s /dev/shm/count ]; do sleep 0.1; done"
IDENTITY = "cat /etc/machine-id; hostname; head -c 16 /dev/urandom | base64"
READY_WITHIN_S = 180.0


@asynccontextmanager
async def created(fleet: LiveFleet, **options: Any) -> AsyncIterator[Sandbox]:
    sandbox = await Sandbox.create(api_key=fleet.api_key, api_url=fleet.url, memory_mb=512, **options)
    try:
        yield sandbox
    finally:
        await sandbox.kill()
        await sandbox.close()


async def said(sandbox: Sandbox, command: str) -> str:
    """Return what a command that succeeds prints."""
    result = await sandbox.exec.run(command)
    assert result.exit_code == 0, result
    return str(result.stdout)


async def ready_checkpoint(sandbox: Sandbox, name: str) -> dict[str, Any]:
    """Take a checkpoint and return it when it is ready."""
    made = await sandbox.create_checkpoint(name)
    assert made["status"] == "processing"
    async with asyncio.timeout(READY_WITHIN_S):
        while True:
            (found,) = [one for one in await sandbox.list_checkpoints() if one["id"] == made["id"]]
            if found["status"] == "ready":
                return dict(found)
            assert found["status"] == "processing", found
            await asyncio.sleep(0.3)


async def test_memory_processes_and_disk_come_back(fleet: LiveFleet) -> None:
    async with created(fleet) as sandbox:
        await said(
            sandbox, f"{START_COUNTING}; echo in-root > /tmp/note; echo on-disk > /workspace/note; {COUNTED}"
        )
        before = int(await said(sandbox, "cat /dev/shm/count"))
        await sandbox.hibernate()
        assert sandbox.status == "hibernated"
        with fleet.client() as http:
            seen = http.get(f"/api/sandboxes/{sandbox.sandbox_id}").json()
        assert (seen["status"], seen["workerID"]) == ("hibernated", None)
        await asyncio.sleep(2)
        await sandbox.wake()
        after = int(await said(sandbox, "cat /dev/shm/count"))
        assert before <= after <= before + 60, (
            "the counter ran while the sandbox was saved, or lost its place"
        )
        assert await said(sandbox, "kill -0 $(cat /tmp/pid) && cat /tmp/note /workspace/note") == (
            "in-root\non-disk\n"
        )
        await said(sandbox, f"while [ $(cat /dev/shm/count) -le {after} ]; do sleep 0.1; done")
        asked_at_s = SystemClock().now().timestamp()
        seconds = float(await said(sandbox, "date +%s.%N"))
        assert asked_at_s - 2 < seconds < SystemClock().now().timestamp() + 2


async def test_a_command_wakes_what_is_hibernated(fleet: LiveFleet) -> None:
    async with created(fleet) as sandbox:
        await sandbox.files.write("/workspace/a", "kept")
        await sandbox.hibernate()
        assert await sandbox.files.read("/workspace/a") == "kept"
        assert await sandbox.is_running()
        await sandbox.hibernate()
        assert await said(sandbox, "cat /workspace/a") == "kept"


async def test_restore_goes_back_and_a_fork_is_somebody_else(fleet: LiveFleet) -> None:
    async with created(fleet, envs={"WHO": "parent"}) as sandbox:
        await said(sandbox, "echo one > /tmp/note; echo one > /workspace/note")
        mine = await said(sandbox, IDENTITY)
        checkpoint = await ready_checkpoint(sandbox, "first")
        assert checkpoint["sizeBytes"] > 0
        await said(sandbox, "echo two > /tmp/note; echo two > /workspace/note")
        fork = await Sandbox.create_from_checkpoint(
            checkpoint["id"], api_key=fleet.api_key, api_url=fleet.url, envs={"WHO": "fork"}
        )
        try:
            assert await said(fork, "cat /tmp/note /workspace/note; echo $WHO") == "one\none\nfork\n"
            theirs = await said(fork, IDENTITY)
            assert not set(mine.split()) & set(theirs.split())
        finally:
            await fork.kill()
            await fork.close()
        await sandbox.restore_checkpoint(checkpoint["id"])
        assert await said(sandbox, "cat /tmp/note /workspace/note; echo $WHO") == "one\none\nparent\n"
        assert (await said(sandbox, "cat /etc/machine-id")).strip() in mine
        await sandbox.delete_checkpoint(checkpoint["id"])
        assert await sandbox.list_checkpoints() == []
        assert await said(sandbox, "cat /tmp/note") == "one\n"


async def test_live_forks_share_the_past_and_nothing_else(fleet: LiveFleet) -> None:
    async with created(fleet) as sandbox:
        await said(sandbox, f"{START_COUNTING}; echo past > /tmp/note; {COUNTED}")
        async with fleet.async_client(timeout_s=120) as http:
            answer = await http.post(
                f"/api/sandboxes/{sandbox.sandbox_id}/fork?count=3", json={"timeout": 600}
            )
            assert answer.status_code == 201, answer.text
            forks = [one["sandboxID"] for one in answer.json()["sandboxes"]]
            try:
                told = await asyncio.gather(*(_run(http, one, f"cat /tmp/note; {IDENTITY}") for one in forks))
                assert all(text.startswith("past\n") for text in told)
                words = [word for text in told for word in text.split()[1:]]
                assert len(words) == len(set(words))
                counts = await asyncio.gather(*(_run(http, one, "cat /dev/shm/count") for one in forks))
                assert all(int(count) > 0 for count in counts)
            finally:
                for one in forks:
                    await http.delete(f"/api/sandboxes/{one}")


async def _run(http: httpx.AsyncClient, sandbox: str, command: str) -> str:
    answer = await http.post(f"/api/sandboxes/{sandbox}/exec/run", json={"cmd": command})
    assert answer.json()["exitCode"] == 0, answer.text
    return str(answer.json()["stdout"])


@pytest.mark.parametrize("victim", ["server", "worker"])
@pytest.mark.parametrize("verb", ["hibernate", "wake", "restore", "fork"])
async def test_kill_9_in_the_middle_loses_nothing(fleet: LiveFleet, verb: str, victim: str) -> None:
    """Whoever dies while it is saved or woken: afterwards it is there, with what it had."""
    async with created(fleet) as sandbox, fleet.async_client(timeout_s=120) as http:
        await said(sandbox, "echo kept > /tmp/note; echo kept > /workspace/note")
        path = f"/api/sandboxes/{sandbox.sandbox_id}"
        if verb == "wake":
            assert (await http.post(f"{path}/hibernate")).status_code == 200
        elif verb == "restore":
            checkpoint = await ready_checkpoint(sandbox, "one")
            verb = f"checkpoints/{checkpoint['id']}/restore"
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(_ask(http, f"{path}/{verb}"))
            await asyncio.sleep(0.4)
            await asyncio.to_thread(fleet.kill_9, victim)
            await asyncio.wait([asked], timeout=110)
            asked.cancel()
        await asyncio.to_thread(fleet.wait_healthy)
        kept = await _until_said(http, path, "cat /tmp/note /workspace/note")
        assert kept == "kept\nkept\n"
        forks = (await http.get("/api/sandboxes?status=creating,running")).json()
        for one in forks:
            if one["sandboxID"] != sandbox.sandbox_id and not one["alias"]:
                await http.delete(f"/api/sandboxes/{one['sandboxID']}")


async def _ask(http: httpx.AsyncClient, path: str) -> None:
    with suppress(httpx.HTTPError):  # its server may be gone; what counts is what came of it
        await http.post(path)


async def _until_said(http: httpx.AsyncClient, path: str, command: str) -> str:
    answer: httpx.Response | None = None
    for _ in range(90):
        try:
            answer = await http.post(f"{path}/exec/run", json={"cmd": command})
        except httpx.HTTPError:
            await asyncio.sleep(1)
            continue
        if answer.status_code == 200 and answer.json()["exitCode"] == 0:
            return str(answer.json()["stdout"])
        await asyncio.sleep(1)
    raise AssertionError(answer.text if answer is not None else "no answer")
