"""Exec sessions and terminals over real HTTP and WebSockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from tests.integration.worker.harness import RunningWorker, a_worker, a_worker_with, fake_host, until

from sandfleet.testing.fake_exec import FakeExec
from sandfleet.testing.fake_hypervisor import FakeHypervisor
from sandfleet.testing.fake_programs import FakeProcess
from sandfleet.wire import session_frames as frames

ID = "sb-one"
EPOCH = {"X-Sandfleet-Epoch": "1"}
MIB = 2**20


async def call(worker: RunningWorker, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    async with worker.http.request(
        method, f"/sandboxes/{ID}/{path}", data=json.dumps(body or {}), headers=EPOCH
    ) as answer:
        text = await answer.text()
        return answer.status, json.loads(text) if text else None


async def begin(worker: RunningWorker, cmd: str, *args: str, **fields: Any) -> str:
    status, body = await call(worker, "POST", "exec", {"cmd": cmd, "args": list(args), **fields})
    assert status == 201, body
    return str(body["sessionID"])


@asynccontextmanager
async def socket(
    worker: RunningWorker, path: str, *, epoch: int = 1, **query: object
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with worker.http.ws_connect(
        f"/sandboxes/{ID}/{path}",
        params={name: str(value) for name, value in query.items()},
        headers={"X-Sandfleet-Epoch": str(epoch)},
    ) as opened:
        yield opened


async def rest(opened: aiohttp.ClientWebSocketResponse) -> list[bytes]:
    """Return all messages to the close."""
    return [message.data async for message in opened]


def guest_exec(worker: RunningWorker, exec_id: str) -> FakeExec:
    return next(iter(fake_host(worker).machines.values())).guest._known(exec_id)


async def test_a_finished_session_is_replayed_whole_and_closed() -> None:
    async with a_worker_with() as worker:
        exec_id = await begin(worker, "sh", "-c", "echo out; echo err >&2; exit 3")
        await until(lambda: not guest_exec(worker, exec_id).is_running)
        async with socket(worker, f"exec/{exec_id}") as opened:
            assert await rest(opened) == [
                b"\x01out\n",
                b"\x02err\n",
                b"\x04" + (8).to_bytes(8, "big"),
                b"\x03\x00\x00\x00\x03",
            ]
            assert opened.close_code == 1000
            assert opened._response.headers["X-Exec-Offset"] == "0"


async def test_stdin_replay_and_live_output() -> None:
    async with a_worker_with() as worker:
        exec_id = await begin(worker, "cat")
        async with socket(worker, f"exec/{exec_id}") as one:
            assert (await one.receive()).data[0] == frames.REPLAYED
            await one.send_bytes(b"\x00")  # an empty one does nothing
            await one.send_str("text is ignored")
            await one.send_bytes(b"\x06ignored")
            await one.send_bytes(b"\x00hello ")
            assert (await one.receive()).data == b"\x01hello "
            async with socket(worker, f"exec/{exec_id}", offset=2) as two:
                assert two._response.headers["X-Exec-Offset"] == "2"
                assert (await two.receive()).data == b"\x01llo "
                assert (await two.receive()).data == b"\x04" + (6).to_bytes(8, "big")
                assert (await call(worker, "GET", f"exec/{exec_id}"))[1]["attachedClients"] == 2
                await two.send_bytes(b"\x00world")
                await two.send_bytes(b"\x05")
                assert await rest(two) == [b"\x01world", b"\x03\x00\x00\x00\x00"]
            assert await rest(one) == [b"\x01world", b"\x03\x00\x00\x00\x00"]
        _, body = await call(worker, "GET", f"exec/{exec_id}")
        assert (body["running"], body["exitCode"], body["outputBytes"]) == (False, 0, 11)


async def test_stdin_with_a_place_is_taken_once_and_confirmed() -> None:
    async with a_worker_with() as worker:
        exec_id = await begin(worker, "cat")
        async with socket(worker, f"exec/{exec_id}", writer="w") as one:
            await one.receive()
            await one.send_bytes(frames.placed_stdin(0, b"abc"))
            seen = {(await one.receive()).data for _ in range(2)}
            assert seen == {frames.stdin_taken(3), b"\x01abc"}
        async with socket(worker, f"exec/{exec_id}", writer="w", offset=3) as two:
            await two.send_bytes(frames.placed_stdin(0, b"abcd", end=True))
            messages = await rest(two)
            assert [message for message in messages if message[0] == 1] == [b"\x01d"]
            assert frames.stdin_taken(4) in messages


@pytest.mark.parametrize(
    ("path", "query", "status", "code"),
    [
        ("exec/ex-unknown-1", {}, 404, "not_found"),
        ("pty/ex-unknown-1", {}, 404, "not_found"),
        ("exec/{id}", {"offset": 99}, 416, "offset_gone"),
        ("exec/{id}", {"offset": "x"}, 400, "bad_request"),
        ("pty/{id}", {}, 404, "not_found"),
        ("nothing/{id}", {}, 404, "not_found"),
    ],
)
async def test_an_upgrade_is_refused_with_an_answer(
    path: str, query: dict[str, object], status: int, code: str
) -> None:
    async with a_worker_with() as worker:
        exec_id = await begin(worker, "echo", "x")
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            async with socket(worker, path.format(id=exec_id), **query):
                pass
        assert caught.value.status == status
        assert caught.value.headers is not None
        problem = json.loads(caught.value.headers[frames.PROBLEM_HEADER])
        assert problem["code"] == code
        if code == "offset_gone":
            assert problem["details"] == {"oldest": 0, "newest": 2}


async def test_an_upgrade_needs_token_and_epoch() -> None:
    async with a_worker_with() as worker:
        exec_id = await begin(worker, "cat")
        for epoch, status in ((2, 409), (0, 409)):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                async with socket(worker, f"exec/{exec_id}", epoch=epoch):
                    pass
            assert caught.value.status == status
        async with aiohttp.ClientSession(worker.url) as stranger:
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await stranger.ws_connect(f"/sandboxes/{ID}/exec/{exec_id}", headers=EPOCH)
            assert caught.value.status == 401


async def test_an_open_socket_is_no_activity_but_its_messages_are() -> None:
    async with a_worker_with() as worker:
        exec_id = await begin(worker, "cat")
        resident = worker.host.residents.find(ID)
        assert resident is not None
        async with socket(worker, f"exec/{exec_id}") as opened:
            await opened.receive()
            await until(lambda: resident.idle_s > 0.05)
            assert resident.in_flight == 0
            active_at = time.monotonic() - resident.idle_s
            await opened.send_bytes(b"\x00x")
            await opened.receive()
            assert time.monotonic() - resident.idle_s > active_at + 0.04


async def test_a_socket_ends_when_its_sandbox_does() -> None:
    async with a_worker_with() as worker:
        exec_id = await begin(worker, "cat")
        async with socket(worker, f"exec/{exec_id}") as opened:
            await opened.receive()
            await worker.stop(ID)
            assert await rest(opened) == []
            assert opened.close_code == frames.ENDED


async def test_list_kill_and_values() -> None:
    async with a_worker_with() as worker:
        first = await begin(worker, "cat")
        second = await begin(worker, "sleep", "30", timeout=0)
        await worker.run(ID, {"cmd": "true"}, exec_id="ex-one-shot")
        pty = (await call(worker, "POST", "pty", {"shell": "cat"}))[1]["sessionID"]
        listed = (await call(worker, "GET", "exec"))[1]
        assert {one["sessionID"] for one in listed} == {first, second, "ex-one-shot"}
        assert all(one["sandboxID"] == ID for one in listed)
        shown = next(one for one in listed if one["sessionID"] == second)
        assert (shown["command"], shown["args"], shown["running"]) == ("sleep", ["30"], True)
        assert "exitCode" not in shown
        for body, status in (({"signal": 0}, 400), ({"signal": 65}, 400), ({"signal": 15}, 204)):
            assert (await call(worker, "POST", f"exec/{first}/kill", body))[0] == status
        assert (await call(worker, "POST", f"exec/{second}/kill"))[0] == 204
        await until(lambda: not guest_exec(worker, second).is_running)
        assert (await call(worker, "POST", f"exec/{second}/kill"))[0] == 204
        assert (await call(worker, "GET", f"exec/{second}"))[1]["exitCode"] == -1
        assert (await call(worker, "POST", "exec/ex-unknown-1/kill"))[0] == 404
        assert (await call(worker, "POST", f"exec/{pty}/kill"))[0] == 404
        assert (await call(worker, "POST", "exec", {}))[0] == 400
        assert (await call(worker, "POST", "exec", {"cmd": "nothing"}))[1]["code"] == "exec_failed"


async def test_terminals() -> None:
    async with a_worker_with() as worker:
        status, body = await call(worker, "POST", "pty", {"cols": 100, "rows": 30, "shell": "cat"})
        assert (status, set(body)) == (201, {"sessionID", "sandboxID"})
        pty = body["sessionID"]
        order = guest_exec(worker, pty).order
        assert (order.terminal.cols, order.terminal.rows) == (100, 30)  # type: ignore[union-attr]
        assert await call(worker, "POST", f"pty/{pty}/resize", {"cols": 90, "rows": 20}) == (200, None)
        assert (await call(worker, "POST", f"pty/{pty}/resize", {"cols": -1}))[0] == 400
        assert guest_exec(worker, pty).sizes[-1].cols == 90
        async with socket(worker, f"pty/{pty}") as opened:
            await opened.receive()
            await opened.send_bytes(b"\x00typed")
            assert (await opened.receive()).data == b"\x01typed"
            async with socket(worker, f"pty/{pty}") as later:
                assert (await later.receive()).data[0] == frames.REPLAYED  # no scrollback unless asked for
            async with socket(worker, f"pty/{pty}", scrollback=3) as later:
                assert (await later.receive()).data == b"\x01ped"
            assert (await call(worker, "DELETE", f"pty/{pty}"))[0] == 204
            assert (await rest(opened))[-1] == frames.exited(-1)
        for method, path in (("DELETE", "pty/ex-unknown-1"), ("POST", "pty/ex-unknown-1/resize")):
            assert (await call(worker, method, path, {"cols": 1, "rows": 1}))[0] == 404


async def test_a_session_ends_when_its_last_client_has_been_away_too_long() -> None:
    async with a_worker_with() as worker:
        exec_id = await begin(worker, "cat", maxRunAfterDisconnect=3)
        async with socket(worker, f"exec/{exec_id}") as opened:
            await opened.receive()
        async with socket(worker, f"exec/{exec_id}") as opened:  # comes back in time
            await opened.receive()
            await asyncio.sleep(3.5)
            assert guest_exec(worker, exec_id).is_running
        await until(lambda: not guest_exec(worker, exec_id).is_running)


async def test_a_session_never_attached_lingers_on_and_another_worker_takes_the_time_over() -> None:
    async with FakeHypervisor() as hypervisor:
        async with a_worker(hypervisor) as worker:
            await worker.start(ID)
            alone = await begin(worker, "cat", maxRunAfterDisconnect=1)
            left = await begin(worker, "cat", maxRunAfterDisconnect=1)
            async with socket(worker, f"exec/{left}") as opened:
                await opened.receive()
            worker.host.is_stopping = True
        async with a_worker(hypervisor, key=worker.key) as worker:
            await until(lambda: not guest_exec(worker, left).is_running)
            assert guest_exec(worker, alone).is_running
            resident = worker.host.residents.find(ID)
            assert resident is not None
            await until(lambda: resident.in_flight == 0)  # what is left is no activity


async def _flood(process: FakeProcess) -> int:
    await process.stdin.get()
    for _ in range(40):
        await process.write(1, b"x" * MIB)
    return 0


async def test_a_slow_client_holds_nobody_but_the_process() -> None:
    async with FakeHypervisor(program=_flood) as hypervisor, a_worker(hypervisor) as worker:
        await worker.start(ID)
        exec_id = await begin(worker, "flood")
        async with socket(worker, f"exec/{exec_id}", offset=0) as slow:
            await slow.receive()
            async with socket(worker, f"exec/{exec_id}", offset=0) as quick:
                await quick.send_bytes(b"\x00go")
                seen = 0
                while seen < 15 * MIB:
                    message = await quick.receive()
                    if message.data[0] == frames.STDOUT:
                        assert len(message.data) <= frames.FRAME_BYTES_MAX
                        seen += len(message.data) - 1
                assert guest_exec(worker, exec_id).is_running
                assert (await call(worker, "GET", f"exec/{exec_id}"))[1]["running"]
            rest_bytes = sum(len(one) - 1 for one in await rest(slow) if one[0] == frames.STDOUT)
            assert rest_bytes == 40 * MIB
