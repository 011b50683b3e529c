"""Sessions and terminals through the control plane: real sockets, a real worker service, a fake host."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import websockets
from tests.integration.controlplane.conftest import BOOTSTRAP_KEY, Fleet, OpenFleet
from websockets.asyncio.client import ClientConnection, connect

from sandfleet.adapters.workers.data_plane import AiohttpDataPlane
from sandfleet.model.errors import WorkerUnreachable
from sandfleet.wire import session_frames as frames

MIB = 2**20


@asynccontextmanager
async def socket(
    fleet: Fleet, sandbox: str, path: str, *, query: str = f"?api_key={BOOTSTRAP_KEY}", prefix: str = "/api"
) -> AsyncIterator[ClientConnection]:
    url = fleet.url.replace("http", "ws", 1) + f"{prefix}/sandboxes/{sandbox}/{path}{query}"
    async with connect(url, max_size=MIB, open_timeout=60) as opened:
        yield opened


async def begin(fleet: Fleet, sandbox: str, cmd: str, *args: str, **fields: Any) -> str:
    body = {"cmd": cmd, "args": list(args), **fields}
    answer = await fleet.client.post(f"/api/sandboxes/{sandbox}/exec", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["sessionID"])


async def rest(opened: ClientConnection) -> list[bytes]:
    """Return all messages to the close, whatever its code."""
    seen: list[bytes] = []
    with suppress(websockets.ConnectionClosedError):
        async for message in opened:
            assert isinstance(message, bytes)
            seen.append(message)
    return seen


async def refusal(fleet: Fleet, sandbox: str, path: str, **place: str) -> tuple[int, dict[str, Any]]:
    with pytest.raises(websockets.InvalidStatus) as caught:
        async with socket(fleet, sandbox, path, **place):
            pass
    response = caught.value.response
    return response.status_code, json.loads(response.body or b"{}")


async def test_a_session_from_start_to_exit(open_fleet: OpenFleet) -> None:
    async with open_fleet() as fleet:
        sandbox = await fleet.create()
        session = await begin(fleet, sandbox, "cat")
        async with socket(fleet, sandbox, f"exec/{session}") as opened:
            assert opened.response is not None
            assert opened.response.headers["X-Exec-Offset"] == "0"
            assert opened.response.headers["X-Request-Id"]
            assert await opened.recv() == b"\x04"
            await opened.send("text is ignored")
            await opened.send(b"")
            await opened.send(b"\x10" + bytes(9) + b"not a client's frame")
            await opened.send(b"\x00hello ")
            assert await opened.recv() == b"\x01hello "
            async with socket(
                fleet, sandbox, f"exec/{session}", query=f"?api_key={BOOTSTRAP_KEY}&offset=3"
            ) as two:
                assert await two.recv() == b"\x01lo "
                assert await two.recv() == b"\x04" + (6).to_bytes(8, "big")
                listed = (await fleet.client.get(f"/api/sandboxes/{sandbox}/exec")).json()
                assert [(one["sessionID"], one["attachedClients"]) for one in listed] == [(session, 2)]
                await two.send(b"\x00world")
                await two.send(b"\x05")
                assert await rest(two) == [b"\x01world", frames.exited(0)]
                assert two.close_code == 1000
            assert await rest(opened) == [b"\x01world", frames.exited(0)]
            assert opened.close_code == 1000
        shown = (await fleet.client.get(f"/sandboxes/{sandbox}/exec/{session}")).json()
        wrong = await fleet.client.get(f"/sandboxes/{sandbox}/exec/{session}?offset=-1")
        assert (wrong.status_code, wrong.json()["code"]) == (400, "bad_request")
        assert (shown["exitCode"], shown["running"], shown["outputBytes"]) == (0, False, 11)
        async with socket(fleet, sandbox, f"exec/{session}") as later:
            messages = await rest(later)
            assert messages[-2:] == [b"\x04", frames.exited(0)]
            assert b"".join(message[1:] for message in messages[:-2]) == b"hello world"


async def test_terminals_carry_bare_bytes(open_fleet: OpenFleet) -> None:
    async with open_fleet() as fleet:
        sandbox = await fleet.create()
        answer = await fleet.client.post(f"/api/sandboxes/{sandbox}/pty", json={"shell": "cat", "cols": 90})
        assert answer.status_code == 201, answer.text
        assert set(answer.json()) == {"sessionID", "sandboxID"}
        pty = answer.json()["sessionID"]
        async with socket(fleet, sandbox, f"pty/{pty}") as opened:
            await opened.send("text ")
            await opened.send(b"bytes")
            seen = b""
            while len(seen) < 10:
                message = await opened.recv()
                assert isinstance(message, bytes)
                seen += message
            assert seen == b"text bytes"
            async with socket(
                fleet, sandbox, f"pty/{pty}", query=f"?api_key={BOOTSTRAP_KEY}&scrollback=5"
            ) as two:
                assert await two.recv() == b"bytes"
            resized = await fleet.client.post(
                f"/api/sandboxes/{sandbox}/pty/{pty}/resize", json={"cols": 3, "rows": 2}
            )
            assert (resized.status_code, resized.content) == (200, b"")
            assert (await fleet.client.delete(f"/api/sandboxes/{sandbox}/pty/{pty}")).status_code == 204
            assert await rest(opened) == []
            assert opened.close_code == 1000
        assert (await fleet.client.delete(f"/api/sandboxes/{sandbox}/pty/ex-unknown-1")).status_code == 404
        assert (await fleet.client.get(f"/api/sandboxes/{sandbox}/exec")).json() == []


async def test_every_place_of_a_credential(open_fleet: OpenFleet) -> None:
    async with open_fleet() as fleet:
        created = (await fleet.client.post("/api/sandboxes")).json()
        sandbox, token = created["sandboxID"], created["token"]
        session = await begin(fleet, sandbox, "cat")
        for prefix in ("", "/api"):
            for query in (f"?api_key={BOOTSTRAP_KEY}", f"?token={token}", f"?api_key={token}"):
                async with socket(fleet, sandbox, f"exec/{session}", query=query, prefix=prefix) as opened:
                    assert await opened.recv() == b"\x04"
            for headers in (
                {"X-API-Key": token},
                {"Authorization": f"Bearer {token}"},
                {"X-API-Key": BOOTSTRAP_KEY},
            ):
                url = fleet.url.replace("http", "ws", 1) + f"{prefix}/sandboxes/{sandbox}/exec/{session}"
                async with connect(url, additional_headers=headers) as opened:
                    assert await opened.recv() == b"\x04"
        other = (await fleet.client.post("/api/sandboxes")).json()
        assert (await refusal(fleet, sandbox, f"exec/{session}", query=""))[0] == 401
        assert (await refusal(fleet, sandbox, f"exec/{session}", query="?api_key=wrong"))[0] == 403
        status, body = await refusal(fleet, sandbox, f"exec/{session}", query=f"?token={other['token']}")
        assert (status, body["code"]) == (403, "token_scope")
        stranger = await fleet.other_organisation()
        key = stranger.headers["X-API-Key"]
        await stranger.aclose()
        assert (await refusal(fleet, sandbox, f"exec/{session}", query=f"?api_key={key}"))[0] == 404


async def test_refusals_come_before_the_upgrade(open_fleet: OpenFleet) -> None:
    async with open_fleet() as fleet:
        sandbox = await fleet.create()
        session = await begin(fleet, sandbox, "echo", "x")
        key = f"?api_key={BOOTSTRAP_KEY}"
        for path, query, status, code in (
            ("exec/ex-unknown-1", key, 404, "not_found"),
            ("exec/UPPER", key, 404, "not_found"),
            (f"pty/{session}", key, 404, "not_found"),
            ("elsewhere", key, 404, "not_found"),
            (f"exec/{session}", key + "&offset=-1", 400, "bad_request"),
            (f"exec/{session}", key + "&offset=77", 416, "offset_gone"),
        ):
            refused, body = await refusal(fleet, sandbox, path, query=query)
            assert (refused, body["code"]) == (status, code), path
            assert body["requestId"]
        assert body["details"] == {"oldest": 0, "newest": 2}
        await fleet.client.delete(f"/api/sandboxes/{sandbox}")
        assert (await refusal(fleet, sandbox, f"exec/{session}"))[0] == 410
        assert (await refusal(fleet, "sb-" + "a" * 26, f"exec/{session}"))[0] == 404


async def test_a_start_is_done_once_per_key(open_fleet: OpenFleet) -> None:
    async with open_fleet() as fleet:
        sandbox = await fleet.create()
        headers = {"Idempotency-Key": "one"}
        path = f"/api/sandboxes/{sandbox}/exec"
        first = await fleet.client.post(path, json={"cmd": "cat"}, headers=headers)
        again = await fleet.client.post(path, json={"cmd": "cat"}, headers=headers)
        assert first.json() == again.json()
        assert again.headers["Idempotency-Replayed"] == "true"
        assert len((await fleet.client.get(path)).json()) == 1
        for body, code in (({}, "bad_request"), ({"cmd": "x", "timeout": -1}, "invalid_argument")):
            refused = await fleet.client.post(path, json=body)
            assert (refused.status_code, refused.json()["code"]) == (400, code)
        refused = await fleet.client.post(f"{path}/ex-unknown-1/kill", json={"signal": 99})
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_argument")


async def test_a_socket_of_a_sandbox_that_is_not_ready_is_held(
    open_fleet: OpenFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandfleet.controlplane.proxy.session_socket.DECIDED_WITHIN_S", 0.2)
    async with open_fleet() as fleet:
        sandbox = await fleet.begin_create()
        async with socket(fleet, sandbox, "exec/ex-unknown-1") as held:  # let in, though nothing is known
            fleet.hypervisor.faults.release("clone")
            assert await rest(held) == []
            assert held.close_code == frames.UNKNOWN


async def test_a_held_socket_is_told_when_its_sandbox_takes_too_long(
    open_fleet: OpenFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandfleet.controlplane.proxy.session_socket.DECIDED_WITHIN_S", 0.1)
    async with open_fleet(sandbox_wait_s=1) as fleet:
        sandbox = await fleet.begin_create()
        async with socket(fleet, sandbox, "exec/ex-unknown-1") as held:
            await rest(held)
            assert held.close_code == frames.TRY_LATER
        fleet.hypervisor.faults.release("clone")


async def test_a_held_socket_is_told_when_its_sandbox_ends(
    open_fleet: OpenFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandfleet.controlplane.proxy.session_socket.DECIDED_WITHIN_S", 0.1)
    async with open_fleet() as fleet:
        sandbox = await fleet.begin_create()
        async with socket(fleet, sandbox, "exec/ex-unknown-1") as held:
            await fleet.client.delete(f"/api/sandboxes/{sandbox}")
            await rest(held)
            assert held.close_code == frames.ENDED
        fleet.hypervisor.faults.release("clone")


async def test_an_attached_client_is_told_when_its_sandbox_is_killed(open_fleet: OpenFleet) -> None:
    async with open_fleet() as fleet:
        sandbox = await fleet.create()
        session = await begin(fleet, sandbox, "cat")
        async with socket(fleet, sandbox, f"exec/{session}") as opened:
            assert await opened.recv() == b"\x04"
            await fleet.client.delete(f"/api/sandboxes/{sandbox}")
            assert await rest(opened) == []
            assert opened.close_code == frames.ENDED


async def test_a_message_above_a_mebibyte_is_1009(open_fleet: OpenFleet) -> None:
    async with open_fleet() as fleet:
        sandbox = await fleet.create()
        session = await begin(fleet, sandbox, "cat")
        async with socket(fleet, sandbox, f"exec/{session}") as opened:
            await opened.send(b"\x00" + bytes(MIB - 1))
            with suppress(websockets.ConnectionClosed):
                await opened.send(b"\x00" + bytes(MIB))
            await rest(opened)
            assert opened.close_code == 1009


async def test_a_replica_that_goes_says_1012_and_is_not_held_up(open_fleet: OpenFleet) -> None:
    async with open_fleet(drain_max_s=30) as fleet:
        sandbox = await fleet.create()
        session = await begin(fleet, sandbox, "cat")
        opened = await connect(
            fleet.url.replace("http", "ws", 1)
            + f"/api/sandboxes/{sandbox}/exec/{session}?api_key={BOOTSTRAP_KEY}"
        )
        assert await opened.recv() == b"\x04"
        loop = asyncio.get_running_loop()
        began = loop.time()
    assert loop.time() - began < 20, "the drain waited for the socket"
    assert await rest(opened) == []
    assert opened.close_code == frames.GOING_AWAY


class Breaking:
    """A worker's socket that breaks after so many messages in one direction, again and again."""

    def __init__(self, inner: Any, *, receives: int, sends: int) -> None:
        self._inner = inner
        self._receives = receives
        self._sends = sends

    @property
    def headers(self) -> Any:
        return self._inner.headers

    async def receive(self) -> bytes | None:
        self._receives -= 1
        return None if self._receives < 0 else await self._inner.receive()

    async def send(self, data: bytes) -> None:
        self._sends -= 1
        if self._sends < 0:
            raise WorkerUnreachable("broken by the test")
        await self._inner.send(data)


async def test_a_client_sees_neither_gap_nor_double_when_workers_break_in_both_directions(
    open_fleet: OpenFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(7)
    connect_really = AiohttpDataPlane.connect
    attempts = 0

    @asynccontextmanager
    async def breaking(self: AiohttpDataPlane, *place: Any) -> AsyncIterator[Breaking]:
        nonlocal attempts
        attempts += 1
        async with connect_really(self, *place) as inner:
            yield Breaking(inner, receives=dice.randrange(1, 30), sends=dice.randrange(1, 15))

    async with open_fleet() as fleet:
        sandbox = await fleet.create()
        session = await begin(fleet, sandbox, "cat")
        monkeypatch.setattr(AiohttpDataPlane, "connect", breaking)
        given = dice.randbytes(6 * MIB)
        seen = bytearray()
        async with socket(
            fleet, sandbox, f"exec/{session}", query=f"?api_key={BOOTSTRAP_KEY}&offset=0"
        ) as opened:

            async def give() -> None:
                for start in range(0, len(given), 50_000):
                    await opened.send(b"\x00" + given[start : start + 50_000])
                await opened.send(b"\x05")

            async with asyncio.TaskGroup() as group:
                group.create_task(give())
                messages = [message async for message in opened if isinstance(message, bytes)]
        for message in messages:
            if message[0] == frames.STDOUT:
                seen += message[1:]
        is_whole = seen == given  # a failed assertion would show all the bytes
        assert is_whole
        assert [message for message in messages if message[0] == frames.EXIT] == [frames.exited(0)]
        assert sum(message[0] == frames.REPLAYED for message in messages) == 1
        assert attempts > 5


async def test_three_clients_get_everything_and_a_slow_one_is_given_up(
    open_fleet: OpenFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandfleet.controlplane.http.client_socket.SLOW_AFTER_S", 4.0)
    async with open_fleet() as fleet:
        sandbox = await fleet.create()
        session = await begin(fleet, sandbox, "cat")
        given = random.Random(3).randbytes(56 * MIB)  # more than the log and all buffers hold
        url = (
            fleet.url.replace("http", "ws", 1)
            + f"/sandboxes/{sandbox}/exec/{session}?api_key={BOOTSTRAP_KEY}"
        )
        slow = await connect(url, max_queue=1, ping_interval=None, open_timeout=60)
        quick = [await connect(f"{url}&offset=0", open_timeout=60) for _ in range(3)]

        async def give() -> None:
            for start in range(0, len(given), 200_000):
                await quick[0].send(b"\x00" + given[start : start + 200_000])
            await quick[0].send(b"\x05")

        async with asyncio.TaskGroup() as group:
            group.create_task(give())
            readers = [group.create_task(rest(one)) for one in quick]
        for reader in readers:
            output = b"".join(message[1:] for message in reader.result() if message[0] == frames.STDOUT)
            is_whole = output == given  # a failed assertion would show all the bytes
            assert is_whole
            last = reader.result()[-1][:16]
            assert last == frames.exited(0)
        await rest(slow)
        assert slow.close_code == frames.TRY_LATER


async def test_a_key_in_the_query_opens_a_socket_also_where_it_opens_nothing_else(
    open_fleet: OpenFleet,
) -> None:
    async with open_fleet(auth_query_key=False) as fleet:
        sandbox = await fleet.create()
        session = await begin(fleet, sandbox, "cat")
        async with fleet.anonymous() as client:
            refused = await client.get("/api/sandboxes", params={"api_key": BOOTSTRAP_KEY})
        assert refused.status_code == 401
        async with socket(fleet, sandbox, f"exec/{session}") as opened:
            await opened.send(b"\x05")
            assert (await rest(opened))[-1] == frames.exited(0)
