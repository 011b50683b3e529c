"""The published Python client, unmodified: create, commands, files, timeout, get, list, kill."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from opencomputer import Sandbox
from tests.acceptance.live_fleet import LiveFleet, wait_until

pytestmark = [pytest.mark.timeout(300)]

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def sandbox_id(fleet: LiveFleet) -> Iterator[str]:
    """One sandbox for all the tests that do not end it, with an environment of its own."""
    with fleet.client() as http:
        body = {"envs": {"GREETING": "grüß dich", "SHARED": "sandbox"}, "metadata": {"for": "python"}}
        made = http.post("/api/sandboxes", json=body)
        assert made.status_code == 201, made.text
        identity = made.json()["sandboxID"]
        yield identity
        assert http.delete(f"/api/sandboxes/{identity}").status_code == 204


@pytest.fixture(scope="module", autouse=True)
def slow_command(fleet: LiveFleet, sandbox_id: str) -> Iterator[Future[tuple[int, str]]]:
    """A command that takes longer than the client waits for a byte: it runs beside the other tests."""

    async def run() -> tuple[int, str]:
        async with connected(fleet, sandbox_id) as sandbox:
            result = await sandbox.exec.run("sleep 33; echo slept", timeout=300)
            return result.exit_code, result.stdout

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(asyncio.run, run())


@asynccontextmanager
async def connected(fleet: LiveFleet, identity: str) -> AsyncIterator[Sandbox]:
    """Connect as a user would who kept the id; leaving closes the client and kills nothing."""
    sandbox = await Sandbox.connect(identity, api_key=fleet.api_key, api_url=fleet.url)
    try:
        yield sandbox
    finally:
        await sandbox.close()


async def create(fleet: LiveFleet, **options: Any) -> Sandbox:
    """Create with the client, as its documentation says."""
    return await Sandbox.create(api_key=fleet.api_key, api_url=fleet.url, **options)


async def test_a_created_sandbox_runs_a_command_at_once_and_is_gone_after_kill(fleet: LiveFleet) -> None:
    sandbox = await create(fleet, timeout=300, metadata={"purpose": "acceptance"})
    try:
        assert sandbox.status == "running"
        result = await sandbox.exec.run("echo hello from $(whoami)")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "hello from sandbox\n", "")
        assert await sandbox.is_running()
        await sandbox.kill()
        assert not await sandbox.is_running()
        with pytest.raises(httpx.HTTPStatusError) as refused:
            await sandbox.exec.run("true")
        assert refused.value.response.status_code == 410
        assert refused.value.response.json()["code"] == "gone"
        await sandbox.kill()
    finally:
        await sandbox.close()


async def test_the_context_manager_kills_on_the_way_out(fleet: LiveFleet) -> None:
    async with await create(fleet) as sandbox:
        identity = sandbox.id
        assert (await sandbox.commands.run("exit 3")).exit_code == 3
    with fleet.client() as http:
        record = http.get(f"/api/sandboxes/{identity}").json()
    assert (record["status"], record["stopReason"]) == ("stopped", "user_requested")


async def said(sandbox: Sandbox, command: str) -> str:
    """Return what a command that succeeds prints."""
    result = await sandbox.exec.run(command)
    assert result.exit_code == 0, result
    return str(result.stdout)


async def test_exit_codes_and_both_streams_come_back(fleet: LiveFleet, sandbox_id: str) -> None:
    async with connected(fleet, sandbox_id) as sandbox:
        result = await sandbox.exec.run("echo out; echo err >&2; exit 42")
        assert (result.exit_code, result.stdout, result.stderr) == (42, "out\n", "err\n")
        assert (await sandbox.exec.run("kill -9 $$")).exit_code == -1
        assert (await sandbox.exec.run("sh -c 'kill -TERM $$'; exit $?")).exit_code == 128 + 15
        assert (await sandbox.exec.run("definitely-not-a-command")).exit_code == 127


async def test_environment_and_directory(fleet: LiveFleet, sandbox_id: str) -> None:
    async with connected(fleet, sandbox_id) as sandbox:
        result = await sandbox.exec.run("echo $GREETING; echo $SHARED; pwd")
        assert result.stdout == "grüß dich\nsandbox\n/home/sandbox\n"
        result = await sandbox.exec.run(
            "echo $SHARED $EXTRA; pwd", env={"SHARED": "call", "EXTRA": "x y"}, cwd="/tmp"
        )
        assert result.stdout == "call x y\n/tmp\n"
        with pytest.raises(httpx.HTTPStatusError) as refused:
            await sandbox.exec.run("true", cwd="/no/such/directory")
        assert refused.value.response.status_code == 400
        assert refused.value.response.json()["code"] == "exec_failed"


async def test_a_timeout_kills_that_command_and_nothing_else(fleet: LiveFleet, sandbox_id: str) -> None:
    async with connected(fleet, sandbox_id) as sandbox:
        bystander = asyncio.ensure_future(sandbox.exec.run("sleep 6; echo alive"))
        result = await sandbox.exec.run("echo begun; (sleep 777 &) ; sleep 777", timeout=4)
        assert result.exit_code == -1
        assert result.stdout == "begun\n"
        assert result.stderr.endswith("\nProcess timed out")
        await said(sandbox, "while pgrep -fx 'sleep 777'; do sleep 0.1; done")
        assert (await bystander).stdout == "alive\n"


async def test_large_output_is_whole(fleet: LiveFleet, sandbox_id: str) -> None:
    async with connected(fleet, sandbox_id) as sandbox:
        program = "import sys; sys.stdout.write(''.join('%07d\\n' % n for n in range(400000)))"
        result = await sandbox.exec.run(f'python3 -c "{program}"', timeout=120)
    assert result.exit_code == 0
    assert len(result.stdout) == 8 * 400_000
    assert result.stdout == "".join(f"{number:07d}\n" for number in range(400_000))


async def test_output_that_is_no_text_is_replaced_and_not_refused(fleet: LiveFleet, sandbox_id: str) -> None:
    async with connected(fleet, sandbox_id) as sandbox:
        result = await sandbox.exec.run(r"printf 'a\377\376b\303\251\000c'")
    assert (result.exit_code, result.stdout) == (0, "a\ufffd\ufffdbé\x00c")


async def test_commands_run_side_by_side(fleet: LiveFleet, sandbox_id: str) -> None:
    async with connected(fleet, sandbox_id) as sandbox:
        results = await asyncio.gather(*(sandbox.exec.run(f"sleep 1; echo {n}; exit {n}") for n in range(8)))
    assert [(result.exit_code, result.stdout) for result in results] == [(n, f"{n}\n") for n in range(8)]


async def test_files_keep_every_byte(fleet: LiveFleet, sandbox_id: str) -> None:
    every_byte = bytes(range(256)) * 300
    async with connected(fleet, sandbox_id) as sandbox:
        await sandbox.files.write("/workspace/deep/er/every byte+&ü.bin", every_byte)
        assert await sandbox.files.read_bytes("/workspace/deep/er/every byte+&ü.bin") == every_byte
        await sandbox.files.write("notes.txt", "Übung\n")
        assert await sandbox.files.read("/home/sandbox/notes.txt") == "Übung\n"
        await sandbox.files.write("notes.txt", "")
        assert await sandbox.files.read_bytes("notes.txt") == b""
        owner = await sandbox.exec.run("stat -c '%U %a' /home/sandbox/notes.txt")
        assert owner.stdout == "sandbox 644\n"


async def test_a_large_file_goes_in_and_out_as_a_stream(fleet: LiveFleet, sandbox_id: str) -> None:
    block = random.Random(7).randbytes(MIB)

    async def blocks() -> AsyncIterator[bytes]:
        for _ in range(24):
            yield block

    async with connected(fleet, sandbox_id) as sandbox:
        await sandbox.files.write("/workspace/large.bin", blocks())
        digest = await sandbox.exec.run("sha256sum < /workspace/large.bin | cut -d' ' -f1")
        content = await sandbox.files.read_bytes("/workspace/large.bin")
    assert digest.stdout.strip() == hashlib.sha256(block * 24).hexdigest()
    assert content == block * 24


async def test_directories_are_made_listed_and_removed(fleet: LiveFleet, sandbox_id: str) -> None:
    async with connected(fleet, sandbox_id) as sandbox:
        files = sandbox.files
        await files.make_dir("/workspace/tree/branch")
        await files.make_dir("/workspace/tree/branch")
        await files.write("/workspace/tree/leaf", b"12345")
        listed = {(entry.name, entry.is_dir, entry.path) for entry in await files.list("/workspace/tree")}
        assert listed == {
            ("branch", True, "/workspace/tree/branch"),
            ("leaf", False, "/workspace/tree/leaf"),
        }
        assert [e.size for e in await files.list("/workspace/tree") if e.name == "leaf"] == [5]
        assert await files.list("/workspace/tree/branch") == []
        await files.remove("/workspace/tree")
        await files.remove("/workspace/tree")
        assert "tree" not in [entry.name for entry in await files.list("/workspace")]


async def test_exists_tells_files_from_what_is_none(fleet: LiveFleet, sandbox_id: str) -> None:
    async with connected(fleet, sandbox_id) as sandbox:
        await sandbox.files.write("present", b"")
        assert await sandbox.files.exists("present")
        assert not await sandbox.files.exists("absent")
        assert not await sandbox.files.exists("/workspace")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/no/such/file", 404, "not_found"),
        ("/workspace", 400, "is_directory"),
        ("with\0nul", 400, "bad_request"),
        ("", 400, "bad_request"),
    ],
)
async def test_reading_what_is_no_file_says_so(
    fleet: LiveFleet, sandbox_id: str, path: str, status: int, code: str
) -> None:
    async with connected(fleet, sandbox_id) as sandbox:
        with pytest.raises(httpx.HTTPStatusError) as refused:
            await sandbox.files.read(path)
    answer = refused.value.response
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["requestId"] == answer.headers["x-request-id"]


async def test_the_timeout_is_set_and_shown(fleet: LiveFleet, sandbox_id: str) -> None:
    async with connected(fleet, sandbox_id) as sandbox:
        await sandbox.set_timeout(1234)
        with fleet.client() as http:
            record = http.get(f"/api/sandboxes/{sandbox_id}").json()
        assert record["timeout"] == 1234
        assert record["idleExpiresAt"].endswith("Z")
        with pytest.raises(httpx.HTTPStatusError) as refused:
            await sandbox.set_timeout(-1)
        assert refused.value.response.json()["error"] == "timeout must be zero or positive"
        await sandbox.set_timeout(0)


async def test_an_idle_sandbox_sleeps_and_a_busy_one_does_not(fleet: LiveFleet) -> None:
    idle, busy = await asyncio.gather(create(fleet, timeout=5), create(fleet, timeout=5))
    try:
        script = "until [ -e /tmp/end ]; do sleep 0.1; done; echo still here"
        working = asyncio.ensure_future(busy.exec.run(script, timeout=300))
        with fleet.client() as http:
            await asyncio.to_thread(
                wait_until,
                lambda: _status(http, idle.id) in ("hibernating", "hibernated"),
                timeout_s=90,
                what="the idle one to sleep",
            )
            await asyncio.sleep(5)  # the other's time is over by now as well
            assert _status(http, busy.id) == "running"
        assert not working.done()
        await busy.files.write("/tmp/end", b"")
        assert (await working).stdout == "still here\n"
    finally:
        await asyncio.gather(idle.kill(), busy.kill())
        await asyncio.gather(idle.close(), busy.close())


def _status(http: httpx.Client, identity: str) -> str:
    return str(http.get(f"/api/sandboxes/{identity}").json()["status"])


async def test_what_the_record_shows(fleet: LiveFleet, sandbox_id: str) -> None:
    with fleet.client() as http:
        record = http.get(f"/api/sandboxes/{sandbox_id}").json()
        listed = http.get("/api/sandboxes").json()
    assert record["status"] == "running"
    assert record["metadata"] == {"for": "python"}
    assert record["templateID"] == record["template"] == "base"
    assert record["connectURL"].startswith("http")
    assert record["token"].count(".") == 2
    assert sandbox_id in [entry["sandboxID"] for entry in listed]
    assert "grüß" not in str(record) + str(listed)


async def test_larger_memory_is_there_inside(fleet: LiveFleet) -> None:
    async with await create(fleet, memory_mb=1500) as sandbox:
        with fleet.client() as http:
            reported = http.get(f"/api/sandboxes/{sandbox.id}").json()["memoryMB"]
        total_kib = int((await sandbox.exec.run("awk '/MemTotal/{print $2}' /proc/meminfo")).stdout)
    assert reported == 1536
    assert 0.88 * reported <= total_kib / 1024 <= 1.02 * reported


async def test_two_sandboxes_are_two_computers(fleet: LiveFleet) -> None:
    one, two = await asyncio.gather(create(fleet), create(fleet))
    try:
        marker = os.urandom(8).hex()
        await one.files.write("/workspace/mine", marker)
        assert not await two.files.exists("/workspace/mine")
        question = "cat /etc/machine-id; hostname; head -c 16 /dev/urandom | base64; cat /etc/ssh/*.pub"
        answers = await asyncio.gather(one.exec.run(question), two.exec.run(question))
        first, second = (answer.stdout.splitlines() for answer in answers)
        assert len(first) >= 3
        assert not set(first) & set(second)
    finally:
        await asyncio.gather(one.kill(), two.kill())
        await asyncio.gather(one.close(), two.close())


def test_a_command_may_take_longer_than_the_client_waits_for_a_byte(
    slow_command: Future[tuple[int, str]],
) -> None:
    assert slow_command.result(timeout=150) == (0, "slept\n")
