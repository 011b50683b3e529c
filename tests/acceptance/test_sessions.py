"""Sessions, shells and terminals: the published Python client, unmodified, and what crashes do to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
import websockets
from opencomputer import Sandbox
from tests.acceptance.live_fleet import LiveFleet
from websockets.asyncio.client import ClientConnection, connect

pytestmark = [
    pytest.mark.timeout(420),
    # The published client leaves closing its sockets to the collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

STDOUT, EXIT, REPLAYED = 1, 3, 4


@pytest.fixture(scope="module")
def sandbox_id(fleet: LiveFleet) -> Iterator[str]:
    """One sandbox for all of these tests."""
    with fleet.client() as http:
        made = http.post("/api/sandboxes", json={"envs": {"GREETING": "hello"}})
        assert made.status_code == 201, made.text
        identity = made.json()["sandboxID"]
        yield identity
        assert http.delete(f"/api/sandboxes/{identity}").status_code == 204


@asynccontextmanager
async def connected(fleet: LiveFleet, identity: str) -> AsyncIterator[Sandbox]:
    sandbox = await Sandbox.connect(identity, api_key=fleet.api_key, api_url=fleet.url)
    try:
        yield sandbox
    finally:
        await sandbox.close()


class Heard:
    """Collects what a client hands out."""

    def __init__(self) -> None:
        self.data = b""
        self._changed = asyncio.Event()

    def __call__(self, data: bytes) -> None:
        self.data += data
        self._changed.set()

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(90):
            while text not in self.data:
                self._changed.clear()
                await self._changed.wait()


async def test_a_session_of_the_published_client(fleet: LiveFleet, sandbox_id: str) -> None:
    out, err = Heard(), Heard()
    async with connected(fleet, sandbox_id) as sandbox:
        session = await sandbox.exec.start(
            "sh",
            args=["-c", "echo $GREETING $MORE $PWD; echo err >&2; read line; echo got $line; exit 7"],
            env={"MORE": "world"},
            cwd="/tmp",
            on_stdout=out,
            on_stderr=err,
        )
        await out.until(b"hello world /tmp\n")
        listed = {one.session_id: one for one in await sandbox.exec.list()}
        assert listed[session.session_id].running
        assert listed[session.session_id].command == "sh"
        await session.send_stdin("input\n")
        assert await asyncio.wait_for(session.done, 90) == 7
        assert (out.data, err.data) == (b"hello world /tmp\ngot input\n", b"err\n")
        again = Heard()
        later = await sandbox.exec.attach(session.session_id, on_stdout=again)
        assert await asyncio.wait_for(later.done, 90) == 7
        assert again.data == out.data


async def test_kill_timeout_and_a_program_that_does_not_exist(fleet: LiveFleet, sandbox_id: str) -> None:
    async with connected(fleet, sandbox_id) as sandbox:
        session = await sandbox.exec.start("sleep", args=["300"])
        await session.kill()
        assert await asyncio.wait_for(session.done, 90) == -1
        timed = await sandbox.exec.start("sleep", args=["300"], timeout=1)
        assert await asyncio.wait_for(timed.done, 90) == -1
        with pytest.raises(httpx.HTTPStatusError) as refused:
            await sandbox.exec.start("no-such-program")
        assert refused.value.response.json()["code"] == "exec_failed"


async def test_a_shell_of_the_published_client(fleet: LiveFleet, sandbox_id: str) -> None:
    async with connected(fleet, sandbox_id) as sandbox:
        shell = await sandbox.exec.shell()
        assert (await asyncio.wait_for(shell.run("cd /workspace && export A=5"), 90)).exit_code == 0
        result = await asyncio.wait_for(shell.run("pwd; echo $A; echo err >&2; false"), 90)
        assert (result.exit_code, result.stdout, result.stderr) == (1, "/workspace\n5\n", "err\n")
        again = await sandbox.exec.reattach_shell(shell.session_id)
        assert (await asyncio.wait_for(again.run("echo still $A"), 90)).stdout == "still 5\n"
        await asyncio.wait_for(again.close(), 90)


async def test_a_terminal_of_the_published_client(fleet: LiveFleet, sandbox_id: str) -> None:
    heard = Heard()
    async with connected(fleet, sandbox_id) as sandbox:
        terminal = await sandbox.pty.create(cols=91, rows=33, on_output=heard)
        await terminal.send("stty size; tty; echo $TERM-$USER-$GREETING; exit\n")
        await heard.until(b"33 91\r\n/dev/pts/")
        await heard.until(b"xterm-256color-sandbox-hello\r\n")
        await terminal.close()


COUNT = "for i in $(seq 1 240); do echo line $i; sleep 0.05; done; exit 3"
COUNTED = b"".join(b"line %d\n" % number for number in range(1, 241))


def socket(fleet: LiveFleet, sandbox_id: str, session: str, **query: Any) -> Any:
    url = fleet.url.replace("http", "ws", 1) + f"/api/sandboxes/{sandbox_id}/exec/{session}"
    query = {"api_key": fleet.api_key, **query}
    return connect(url + "?" + "&".join(f"{name}={value}" for name, value in query.items()), open_timeout=60)


async def begin(fleet: LiveFleet, sandbox_id: str, script: str) -> str:
    async with fleet.async_client() as http:
        body = {"cmd": "sh", "args": ["-c", script]}
        answer = await http.post(f"/api/sandboxes/{sandbox_id}/exec", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["sessionID"])


async def read(opened: ClientConnection, seen: bytearray) -> int | None:
    """Read to the close; return the exit code if it came."""
    code = None
    with suppress(websockets.ConnectionClosed):
        async for message in opened:
            assert isinstance(message, bytes)
            if message[0] == STDOUT:
                seen += message[1:]
            elif message[0] == EXIT:
                code = int.from_bytes(message[1:], "big", signed=True)
    return code


async def test_who_is_attached_sees_only_a_pause_when_the_worker_is_killed(
    fleet: LiveFleet, sandbox_id: str
) -> None:
    session = await begin(fleet, sandbox_id, COUNT)
    echo = await begin(fleet, sandbox_id, "cat")
    seen, echoed = bytearray(), bytearray()
    async with socket(fleet, sandbox_id, session) as opened, socket(fleet, sandbox_id, echo) as typed:
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read(opened, seen))
            group.create_task(read(typed, echoed))
            await typed.send(b"\x00before ")
            while len(seen) < 200:
                await asyncio.sleep(0.05)
            fleet.kill_9("worker")
            await typed.send(b"\x00meanwhile ")
            await typed.send(b"\x00after")
            await typed.send(b"\x05")
        assert reading.result() == 3
        assert bytes(seen) == COUNTED
        assert bytes(echoed) == b"before meanwhile after"


async def test_the_next_attach_goes_on_by_offset_when_the_server_is_killed(
    fleet: LiveFleet, sandbox_id: str
) -> None:
    session = await begin(fleet, sandbox_id, COUNT)
    seen = bytearray()
    async with socket(fleet, sandbox_id, session, offset=0) as opened:
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read(opened, seen))
            while len(seen) < 200:
                await asyncio.sleep(0.05)
            fleet.kill_9("server")
        assert reading.result() is None
    assert 200 <= len(seen) < len(COUNTED)
    await asyncio.to_thread(fleet.wait_healthy)
    async with socket(fleet, sandbox_id, session, offset=len(seen)) as opened:
        assert opened.response.headers["X-Exec-Offset"] == str(len(seen))
        assert await read(opened, seen) == 3
    assert bytes(seen) == COUNTED


async def test_three_clients_get_everything_beside_one_that_reads_nothing(
    fleet: LiveFleet, sandbox_id: str
) -> None:
    session = await begin(fleet, sandbox_id, "read go; seq 1 300000; exit 5")
    expected = b"".join(b"%d\n" % number for number in range(1, 300001))
    async with (
        socket(fleet, sandbox_id, session) as idle,
        socket(fleet, sandbox_id, session) as one,
        socket(fleet, sandbox_id, session) as two,
        socket(fleet, sandbox_id, session) as three,
    ):
        buffers = [bytearray() for _ in range(3)]
        await one.send(b"\x00go\n")
        async with asyncio.TaskGroup() as group:
            reading = [
                group.create_task(read(opened, seen))
                for opened, seen in zip((one, two, three), buffers, strict=True)
            ]
        assert [task.result() for task in reading] == [5, 5, 5]
        assert all(bytes(seen) == expected for seen in buffers)
        late = bytearray()
        assert await read(idle, late) == 5
        assert bytes(late) == expected


async def test_hibernation_is_a_pause_that_something_to_say_ends(fleet: LiveFleet) -> None:
    async with fleet.async_client(timeout_s=90) as http:
        sandbox = (await http.post("/api/sandboxes")).json()["sandboxID"]
        counting = await begin(fleet, sandbox, COUNT)
        echo = await begin(fleet, sandbox, "while read line; do echo got $line; done")
        counted, echoed = bytearray(), bytearray()
        async with socket(fleet, sandbox, counting) as ticks, socket(fleet, sandbox, echo) as typed:
            async with asyncio.TaskGroup() as group:
                ticking = group.create_task(read(ticks, counted))
                group.create_task(read(typed, echoed))
                await typed.send(b"\x00one\n")
                while not echoed or len(counted) < 50:
                    await asyncio.sleep(0.05)
                saved = await http.post(f"/api/sandboxes/{sandbox}/hibernate")
                assert saved.status_code == 200, saved.text
                while (await http.get(f"/api/sandboxes/{sandbox}")).json()["status"] != "hibernated":
                    await asyncio.sleep(0.2)
                await asyncio.sleep(2)
                record = (await http.get(f"/api/sandboxes/{sandbox}")).json()
                assert record["status"] == "hibernated"  # two open sockets let it sleep
                await typed.send(b"\x00two\n")
                while b"two" not in echoed:
                    await asyncio.sleep(0.05)
                await typed.send(b"\x05")
            assert ticking.result() == 3
        await http.delete(f"/api/sandboxes/{sandbox}")
    assert bytes(counted) == COUNTED
    assert bytes(echoed) == b"got one\ngot two\n"
