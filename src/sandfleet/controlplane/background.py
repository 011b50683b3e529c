"""Work that outlives the request which began it: owned, bounded, and never lost silently."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.controlplane.http.drain import shutting_down
from sandfleet.model.errors import Unavailable

T = TypeVar("T")

log = structlog.get_logger(__name__)

TASKS_MAX = 20_000


class Background:
    """Owner of tasks; a task group holds them all and ends with its process."""

    def __init__(self, group: TaskGroup) -> None:
        self._group = group
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_over = False

    def start(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Future[T]:
        """Run `work` on its own and return its outcome, which nobody need await; Unavailable at the end."""
        if self._is_over:
            work.close()
            raise shutting_down()
        if len(self._tasks) >= TASKS_MAX:
            work.close()
            raise Unavailable("too much work in progress", code="not_ready")
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        task = self._group.create_task(_settle(work, outcome), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return outcome

    def cancel_all(self) -> None:
        """Ask everything to end, and begin nothing any more."""
        self._is_over = True
        for task in list(self._tasks):
            task.cancel()


async def _settle(work: Coroutine[Any, Any, T], outcome: asyncio.Future[T]) -> None:
    """Put the outcome of `work` where it is awaited; a failure must not end the group."""
    try:
        result = await work
    except asyncio.CancelledError:
        outcome.cancel()
        raise
    except Exception as error:  # noqa: BLE001 -- handed to whoever awaits the outcome
        if not outcome.done():
            outcome.set_exception(error)
            outcome.exception()  # looked at, so that an outcome nobody awaits is no warning
    else:
        if not outcome.done():
            outcome.set_result(result)
