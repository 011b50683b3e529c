"""A group of tasks that leaves its own task as it was found.

Fact: up to Python 3.12 a group whose task fails while the group waits for the others cancels the
task that waits, catches that, and leaves it counted as cancelled. Before 3.11.4, which Debian 12
does not have, a time-out in a task so counted ends as `CancelledError`: whoever caught the
group's failure to go on, as a loop does, would end without a word at its next time-out.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class TaskGroup(asyncio.TaskGroup):
    """`asyncio.TaskGroup`, after whose failure its task is no more cancelled than before."""

    _cancelled_before = 0

    async def __aenter__(self) -> Self:
        """Note how often the task was cancelled."""
        self._cancelled_before = _own_task().cancelling()
        return await super().__aenter__()

    async def __aexit__(
        self,
        et: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Wait for all tasks; a failure takes back what the group counted."""
        try:
            await super().__aexit__(et, exc, tb)
        except BaseExceptionGroup:
            task = _own_task()
            while task.cancelling() > self._cancelled_before:
                task.uncancel()
            raise


def _own_task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a group of tasks is used in a task")
    return task
