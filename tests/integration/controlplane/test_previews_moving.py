"""Previews whose sandbox moves there and back: their clients see a pause, and do nothing about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from .guest_app import PORT, guest_app, host_of, large, socket_to
from .movable import Pair, moved

MOVES = 4
PIECE = b"z" * 65536


@pytest.fixture
async def shown(pair: Pair) -> AsyncIterator[tuple[str, str, str]]:
    """A sandbox in which the application listens, the worker that it is on, and the other one."""
    async with guest_app() as port:
        sandbox, home, away = await pair.create()
        for machine in pair.hosts[home].machines.values():
            if machine.facts.owner == sandbox:
                machine.ports[PORT] = port
        yield sandbox, home, away
        await pair.client.delete(f"/api/sandboxes/{sandbox}")


def anybody(pair: Pair, sandbox: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=pair.fleet.url, headers=host_of(sandbox), timeout=60)


async def there_and_back(pair: Pair, sandbox: str, *workers: str) -> None:
    for number in range(MOVES):
        answer = await moved(pair, sandbox, workers[number % 2])
        assert answer.status_code == 200, answer.text


async def test_a_websocket_counts_on_through_moves(pair: Pair, shown: tuple[str, str, str]) -> None:
    """What is said while the sandbox stands still arrives as well, and nothing arrives twice."""
    sandbox, home, away = shown
    async with socket_to(pair.fleet.url, sandbox) as socket:
        await socket.recv()
        is_over = asyncio.Event()
        number = 0

        async def count() -> None:
            nonlocal number
            while not is_over.is_set():
                number += 1
                await socket.send(f"line {number}")
                async with asyncio.timeout(60):
                    assert await socket.recv() == f"LINE {number}"

        async with asyncio.TaskGroup() as group:
            group.create_task(count())
            await there_and_back(pair, sandbox, away, home)
            pair.hosts[home].faults.hold("hand_over")
            moving = group.create_task(moved(pair, sandbox, away))
            await pair.hosts[home].faults.reached("hand_over")
            said = number
            await asyncio.sleep(0.1)
            assert number - said < 2  # it waits until it is decided where the sandbox goes on
            pair.hosts[home].faults.release("hand_over")
            assert (await moving).status_code == 200
            is_over.set()
        async with asyncio.timeout(60):
            await socket.send("bye")
            await socket.wait_closed()
    assert (number > said, socket.close_code) == (True, 4321)


async def test_an_answer_and_an_upload_under_way_are_whole_after_a_move(
    pair: Pair, shown: tuple[str, str, str]
) -> None:
    """Neither is repeated: the application hears of one request each."""
    sandbox, home, away = shown
    has_moved = asyncio.Event()

    async def upload() -> AsyncIterator[bytes]:
        for _ in range(32):
            yield PIECE
        await has_moved.wait()
        for _ in range(32):
            yield PIECE

    async with anybody(pair, sandbox) as client, client.stream("GET", "/large") as answer:
        pieces = answer.aiter_raw()
        received = bytearray(await anext(pieces))
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(client.post("/up", content=upload()))
            await there_and_back(pair, sandbox, away, home)
            has_moved.set()
        async for piece in pieces:
            received += piece
    assert sending.result().json()["bytes"] == 64 * len(PIECE)
    assert bytes(received) == large()


async def test_events_go_on_in_the_same_answer(pair: Pair, shown: tuple[str, str, str]) -> None:
    sandbox, home, away = shown
    async with anybody(pair, sandbox) as client, client.stream("GET", "/sse?held") as answer:
        pieces = answer.aiter_raw()
        assert await anext(pieces) == b"data: 0\n\n"
        await there_and_back(pair, sandbox, away, home)
        assert (await client.post("/sse")).status_code == 200
        assert b"".join([piece async for piece in pieces]) == b"data: 1\n\ndata: 2\n\n"
