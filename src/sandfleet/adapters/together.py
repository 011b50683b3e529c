"""Two things at a time, with the failure of either as itself instead of in a group."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from sandfleet.adapters.task_group import TaskGroup

T = TypeVar("T")


async def both(main: Coroutine[Any, Any, T], beside: Coroutine[Any, Any, None]) -> T:
    """Run both and return the result of `main`; when one fails the other is cancelled first."""
    try:
        async with TaskGroup() as group:
            first = group.create_task(main)
            group.create_task(beside)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    return first.result()
