"""One-shot commands over real HTTP, in the public shapes."""

from __future__ import annotations

import asyncio
import socket

import msgspec
import pytest
from tests.integration.worker.harness import RunningWorker, a_worker, a_worker_with, fake_host

from sandfleet.testing.fake_hypervisor import FakeHypervisor
from sandfleet.testing.fake_programs import FakeProcess, HeldShell, Signalled
from sandfleet.worker.operations import exec_async

ID = "sb-one"
MIB = 1024 * 1024


async def test_run_answers_with_exactly_the_public_result() -> None:
    async with a_worker_with() as worker:
        answer = await worker.run(ID, {"cmd": "echo out; echo err >&2; exit 3"})
        assert answer == (200, {"exitCode": 3, "stdout": "out\n", "stderr": "err\n"})


async def test_fields_reach_the_guest() -> None:
    async with a_worker_with() as worker:
        body = {"CMD": "printenv", "args": ["A"], "ENVS": {"A": "b"}, "cwd": "/workspace", "timeout": 7}
        assert (await worker.run(ID, body))[1]["stdout"] == "b\n"
        await worker.run(ID, {"cmd": "pwd", "args": [], "timeout": 0, "cwd": None, "other": 1})
        first, second = next(iter(fake_host(worker).machines.values())).guest.runs
        assert (first.argv, first.cwd, first.timeout_s) == (("printenv", "A"), "/workspace", 7)
        assert (second.argv, second.cwd, second.timeout_s) == (("/bin/sh", "-c", "pwd"), None, 60)
        assert (first.user, first.stdin) == ("sandbox", False)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "bad_request"),
        (b"null", "bad_request"),
        (b"{", "bad_request"),
        (b"[]", "bad_request"),
        (b'{"cmd":""}', "bad_request"),
        (b'{"cmd":1}', "bad_request"),
        (b'{"cmd":"a\\u0000b"}', "bad_request"),
        (b'{"cmd":"\\ud800"}', "bad_request"),
        (b'{"cmd":"a","args":"b"}', "bad_request"),
        (b'{"cmd":"a","args":[1]}', "bad_request"),
        (b'{"cmd":"a","envs":{"A":1}}', "bad_request"),
        (b'{"cmd":"a","envs":{"A=B":"1"}}', "bad_request"),
        (b'{"cmd":"a","timeout":true}', "bad_request"),
        (b'{"cmd":"a","timeout":1.5}', "bad_request"),
        (b'{"cmd":"a","timeout":-1}', "invalid_argument"),
        (b'{"cmd":"a","timeout":86401}', "invalid_argument"),
        (b"[" * 100_000, "bad_request"),
    ],
)
async def test_a_malformed_body_is_400_and_runs_nothing(body: bytes, code: str) -> None:
    async with a_worker_with() as worker:
        for verb in ("run", "run-async"):
            status, answer = await worker.run(ID, body, verb=verb)
            assert (status, answer["code"]) == (400, code)
            assert answer["requestId"]
        assert next(iter(fake_host(worker).machines.values())).guest.runs == []


async def test_a_program_that_does_not_exist_is_400() -> None:
    async with a_worker_with() as worker:
        for verb in ("run", "run-async"):
            status, answer = await worker.run(ID, {"cmd": "nothing", "args": ["x"]}, verb=verb)
            assert (status, answer["code"]) == (400, "exec_failed")


async def test_a_timeout_is_a_result() -> None:
    async with a_worker_with() as worker:
        status, body = await worker.run(ID, {"cmd": "echo begun >&2; sleep 30", "timeout": 1})
        assert status == 200
        assert body == {
            "exitCode": -1,
            "stdout": "",
            "stderr": "begun\n\nProcess timed out",
            "timedOut": True,
        }


async def test_a_signal_is_a_result() -> None:
    async with a_worker_with() as worker:
        assert (await worker.run(ID, {"cmd": "kill -15 $$"}))[1] == {
            "exitCode": -1,
            "stdout": "",
            "stderr": "",
            "signal": 15,
        }


async def _split_utf8(process: FakeProcess) -> int:
    for byte in "a\u00e9\u20ac\U0001f600".encode():
        await process.write(1, bytes([byte]))
    await process.write(1, b"\xff\xfe ok \xe2\x82")
    return 0


async def test_output_is_utf8_with_replacement_however_it_is_cut() -> None:
    async with FakeHypervisor(program=_split_utf8) as hypervisor, a_worker(hypervisor) as worker:
        await worker.start(ID)
        stdout = (await worker.run(ID, {"cmd": "x"}))[1]["stdout"]
        assert stdout == "a\u00e9\u20ac\U0001f600\ufffd\ufffd ok \ufffd"


async def _flood(process: FakeProcess) -> int:
    await process.clock.sleep(0.05)
    await process.write(1, b"first ")
    for _ in range(20):
        await process.write(1, b"x" * MIB)
        await process.write(2, b"y" * (MIB // 2))
    return 0


async def test_each_stream_keeps_its_first_16_mib_and_the_rest_is_read_and_dropped() -> None:
    async with FakeHypervisor(program=_flood) as hypervisor, a_worker(hypervisor) as worker:
        await worker.start(ID)
        status, body = await worker.run(ID, {"cmd": "x"})
        assert (status, body["exitCode"], body["truncated"]) == (200, 0, True)
        assert (len(body["stdout"]), len(body["stderr"])) == (16 * MIB, 10 * MIB)
        assert body["stdout"].startswith("first ")


async def test_one_sandbox_cannot_fill_the_workers_memory() -> None:
    async with FakeHypervisor(program=_flood) as hypervisor, a_worker(hypervisor) as worker:
        await worker.start(ID)
        worker.host.outputs.left = before = 20 * MIB
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(worker.run(ID, {"cmd": "x"})) for _ in range(2)]
        bodies = [call.result()[1] for call in calls]
        assert sum(len(body["stdout"]) + len(body["stderr"]) for body in bodies) <= before
        assert [body["truncated"] for body in bodies] == [True, True]
        await worker.stop(ID)
        assert worker.host.outputs.left == before


async def test_a_large_async_result_keeps_its_beginning_too() -> None:
    async with FakeHypervisor(program=_flood) as hypervisor, a_worker(hypervisor) as worker:
        await worker.start(ID)
        await worker.run(ID, {"cmd": "x"}, verb="run-async", exec_id="ex-large-1")
        body = await _end(worker, "ex-large-1")
        assert str(body["stdout"]).startswith("first ")
        assert len((await _result(worker, "ex-large-1"))["stdout"]) == 16 * MIB


async def test_the_same_exec_id_runs_once_and_answers_alike() -> None:
    async with a_worker_with() as worker:
        request = {"cmd": "echo once; sleep 0.1; exit 5"}
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(worker.run(ID, request, exec_id="ex-same-id")) for _ in range(4)]
        later = await worker.run(ID, request, exec_id="ex-same-id")
        expected = (200, {"exitCode": 5, "stdout": "once\n", "stderr": ""})
        assert [*(call.result() for call in calls), later] == [expected] * 5
        assert len(next(iter(fake_host(worker).machines.values())).guest.runs) == 1
        assert (await worker.run(ID, request, exec_id="UPPER CASE"))[0] == 400


async def test_a_client_that_leaves_does_not_end_its_command() -> None:
    async with a_worker_with() as worker:
        async with asyncio.TaskGroup() as group:
            call = group.create_task(worker.run(ID, {"cmd": "sleep 0.3; echo done"}, exec_id="ex-left-alone"))
            await fake_host(worker).faults.reached("read_output")
            call.cancel()
        body = await _end(worker, "ex-left-alone")
        assert (body["exitCode"], body["stdout"]) == (0, "done\n")


async def test_run_async_ends_at_once_or_gives_a_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = HeldShell()
    async with FakeHypervisor(program=shell) as hypervisor, a_worker(hypervisor) as worker:
        await worker.start(ID)
        monkeypatch.setattr(exec_async, "ANSWER_BY_S", 60)
        assert await worker.run(ID, {"cmd": "echo quick"}, verb="run-async") == (
            200,
            {"exitCode": 0, "stdout": "quick\n", "stderr": ""},
        )
        monkeypatch.setattr(exec_async, "ANSWER_BY_S", 0.1)
        status, handle = await worker.run(ID, {"cmd": "held"}, verb="run-async")
        assert (status, handle["running"], set(handle)) == (202, True, {"execId", "running", "startedAt"})
        assert handle["startedAt"].endswith("Z")
        assert await _result(worker, handle["execId"]) == {"running": True, "stdout": "begun\n", "stderr": ""}
        shell.let_go()
        body = await _end(worker, handle["execId"])
        assert isinstance(taken_ms := body.pop("commandMs"), int)
        assert taken_ms >= 100  # it was waited for that long before the handle was given
        assert body == {
            "running": False,
            "exitCode": 0,
            "stdout": "begun\nended\n",
            "stderr": "",
            "wakeMs": 0,
            "createMs": 0,
        }


async def test_an_unknown_exec_is_404() -> None:
    async with a_worker_with() as worker:
        headers = {"X-Sandfleet-Epoch": "1"}
        async with worker.http.get(f"/sandboxes/{ID}/exec/ex-unknown/result", headers=headers) as answer:
            assert (answer.status, (await answer.json())["code"]) == (404, "not_found")


async def test_the_request_id_is_taken_over_or_made() -> None:
    async with a_worker_with() as worker:
        for given, is_kept in (("req-1.a_B", True), ("has space", False)):
            headers = {"X-Sandfleet-Epoch": "1", "X-Request-Id": given}
            url = f"/sandboxes/{ID}/commands"
            async with worker.http.post(url, data=b"{}", headers=headers) as answer:
                assert (answer.headers["X-Request-Id"] == given) is is_kept
                assert (await answer.json())["requestId"] == answer.headers["X-Request-Id"]


async def test_an_epoch_is_required() -> None:
    async with a_worker_with() as worker, worker.http.post(f"/sandboxes/{ID}/exec/run") as answer:
        assert (answer.status, (await answer.json())["code"]) == (400, "bad_request")


async def test_a_body_above_its_limit_is_refused_unread() -> None:
    async with a_worker_with() as worker:
        port = int(worker.url.rpartition(":")[2])
        head = (
            f"POST /sandboxes/{ID}/exec/run HTTP/1.1\r\nHost: x\r\nContent-Length: {65 * MIB}\r\n"
            f"Authorization: Bearer {worker.key.token()}\r\nX-Sandfleet-Epoch: 1\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", port, family=socket.AF_INET)
        writer.write(head.encode())
        assert b" 413 " in await reader.readline()
        writer.close()


async def _ends_when_told(process: FakeProcess) -> int:
    raise Signalled(6)


async def test_an_abort_by_its_own_signal() -> None:
    async with FakeHypervisor(program=_ends_when_told) as hypervisor, a_worker(hypervisor) as worker:
        await worker.start(ID)
        assert (await worker.run(ID, {"cmd": "x"}))[1]["signal"] == 6


async def _end(worker: RunningWorker, exec_id: str) -> dict[str, object]:
    """Return the result, asking until it has ended."""
    body: dict[str, object] = {"running": True}
    while body["running"]:
        body = await _result(worker, exec_id)
    return body


async def _result(worker: RunningWorker, exec_id: str) -> dict[str, object]:
    headers = {"X-Sandfleet-Epoch": "1"}
    async with worker.http.get(f"/sandboxes/{ID}/exec/{exec_id}/result", headers=headers) as answer:
        assert answer.status == 200
        return msgspec.json.decode(await answer.read())
