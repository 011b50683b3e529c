"""Padding: at once when quick, a space at the right moments when slow, JSON at the end."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise

from sandfleet.controlplane.http.answers import Answer, error_answer, json_answer
from sandfleet.controlplane.http.padding import first_of, padded_pieces
from sandfleet.model.errors import Gone
from sandfleet.testing.clock import JumpingClock


async def test_a_quick_answer_is_not_padded() -> None:
    clock = JumpingClock()
    work: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(first_of(work, seconds=10, clock=clock))
        await clock.advance(9.9)
        assert not waiting.done()
        work.set_result(json_answer(200, {"exitCode": 0}))
    answer = waiting.result()
    assert answer is not None
    assert answer.body == b'{"exitCode":0}'


async def test_a_slow_answer_is_none_at_its_second() -> None:
    clock = JumpingClock()
    work: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(first_of(work, seconds=10, clock=clock))
        await clock.advance(10)
    assert waiting.result() is None
    assert not work.done()


async def padded_body(answer: Answer, *, ready_after_s: float) -> tuple[bytes, list[float]]:
    clock = JumpingClock()
    work: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    moments: list[float] = []
    body = bytearray()

    async def read() -> None:
        async for piece in padded_pieces(work, every_s=10, clock=clock):
            moments.append(clock.monotonic())
            body.extend(piece)

    async def answer_later() -> None:
        await clock.sleep(ready_after_s)
        work.set_result(answer)

    async with asyncio.TaskGroup() as group:
        group.create_task(read())
        group.create_task(answer_later())
        await clock.advance(ready_after_s)
    return bytes(body), moments


async def test_one_space_at_once_and_one_every_ten_seconds() -> None:
    body, moments = await padded_body(json_answer(200, {"exitCode": 0}), ready_after_s=35)
    assert body == b'    {"exitCode":0}'
    assert moments == [0, 10, 20, 30, 35]


async def test_no_gap_reaches_the_thirty_seconds_of_a_reader() -> None:
    _, moments = await padded_body(json_answer(200, {}), ready_after_s=3600)
    assert max(later - earlier for earlier, later in pairwise(moments)) <= 10


async def test_a_late_error_is_a_result() -> None:
    error = error_answer(Gone("sandbox sb-1 has been stopped"), request_id="r-1")
    body, _ = await padded_body(error, ready_after_s=15)
    assert json.loads(body) == {
        "exitCode": -1,
        "stdout": "",
        "stderr": "sandbox sb-1 has been stopped",
        "error": "sandbox sb-1 has been stopped",
        "code": "gone",
        "requestId": "r-1",
    }
