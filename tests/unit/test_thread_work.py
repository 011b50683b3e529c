"""Whoever is cancelled while a thread works for it waits for the thread's end."""

from __future__ import annotations

import asyncio
import threading

import pytest

from sandfleet.adapters.thread_work import to_its_end

ENDS_WITHIN_S = 30.0


async def test_what_the_thread_gives_is_returned_and_its_failure_raised() -> None:
    loop = asyncio.get_running_loop()
    assert await to_its_end(loop.run_in_executor(None, lambda: 7)) == 7
    with pytest.raises(ZeroDivisionError):
        await to_its_end(loop.run_in_executor(None, lambda: 1 // 0))


async def test_who_is_cancelled_goes_on_when_the_thread_has_ended_and_takes_back_what_came() -> None:
    may_end, has_begun = threading.Event(), threading.Event()
    taken_back: list[str] = []

    def work() -> str:
        has_begun.set()
        may_end.wait(ENDS_WITHIN_S)
        return "made"

    async def caller() -> str:
        working = asyncio.get_running_loop().run_in_executor(None, work)
        return await to_its_end(working, take_back=taken_back.append)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(caller())
        while not has_begun.is_set():
            await asyncio.sleep(0)
        task.cancel()
        for _ in range(100):
            await asyncio.sleep(0)
        assert not task.done()
        assert taken_back == []
        may_end.set()
    assert task.cancelled()
    assert taken_back == ["made"]
