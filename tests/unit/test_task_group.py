"""A failed group of tasks leaves no trace of a cancellation on the task that goes on."""

from __future__ import annotations

import asyncio

import pytest

from sandfleet.adapters.task_group import TaskGroup


async def _fail() -> None:
    await asyncio.sleep(0)
    raise ValueError


async def _fail_in_a_group() -> None:
    with pytest.raises(ExceptionGroup):
        async with TaskGroup() as group:
            group.create_task(_fail())


async def test_a_failed_group_leaves_its_task_uncancelled() -> None:
    task = asyncio.current_task()
    assert task is not None
    await _fail_in_a_group()
    assert task.cancelling() == 0


async def test_a_time_out_after_a_failed_group_is_a_time_out() -> None:
    await _fail_in_a_group()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.Event().wait()


async def test_a_cancellation_from_outside_goes_through() -> None:
    async def wait() -> None:
        async with TaskGroup() as group:
            group.create_task(asyncio.Event().wait())

    waiting = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert waiting.cancelled()
