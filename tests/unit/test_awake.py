"""Time limits of a process that is stopped and goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sandfleet.adapters.awake import awake_timeout


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps as it does for a process that was stopped."""

    stood_still_s = 0.0

    def time(self) -> float:
        return super().time() + self.stood_still_s


def _run(work: Callable[[JumpingLoop], Coroutine[Any, Any, None]]) -> None:
    loop = JumpingLoop()
    try:
        loop.run_until_complete(work(loop))
    finally:
        loop.close()


async def _settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_who_was_stopped_still_reads_the_answer_that_has_come() -> None:
    async def stopped(loop: JumpingLoop) -> None:
        async with awake_timeout(10):
            loop.stood_still_s += 3600
            await _settle()

    _run(stopped)


def test_the_usual_limit_would_have_been_over() -> None:
    async def stopped(loop: JumpingLoop) -> None:
        async with asyncio.timeout(10):
            loop.stood_still_s += 3600
            await _settle()

    with pytest.raises(TimeoutError):
        _run(stopped)


def test_time_that_passes_bit_by_bit_is_counted() -> None:
    async def waiting(loop: JumpingLoop) -> None:
        async with awake_timeout(10):
            for _ in range(30):
                loop.stood_still_s += 0.6
                await _settle()

    with pytest.raises(TimeoutError):
        _run(waiting)


def test_a_limit_shorter_than_a_step_holds_and_one_that_was_kept_leaves_nothing() -> None:
    async def short(loop: JumpingLoop) -> None:
        async with awake_timeout(0.2):
            pass
        loop.stood_still_s += 1
        await _settle()

    async def shorter(loop: JumpingLoop) -> None:
        async with awake_timeout(0.2):
            loop.stood_still_s += 0.2
            await _settle()

    _run(short)
    with pytest.raises(TimeoutError):
        _run(shorter)
