"""Work that outlives the request that asked for it.

Every task is owned by one task group, and one task's failure never ends
another: it is logged and kept as the task's outcome for whoever waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Generic, TypeVar

import structlog

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.model.errors import NotReady, SandfleetError

log = structlog.get_logger("sandfleet.worker")
T = TypeVar("T")


class OwnedTask(Generic[T]):
    """A running piece of work: may be waited for by many, and cancelled."""

    def __init__(self, task: asyncio.Task[None], outcome: asyncio.Future[T]) -> None:
        self._task = task
        self._outcome = outcome

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._outcome.done()

    @property
    def error(self) -> BaseException | None:
        """What it has failed with; None while it runs, when it succeeded, and when it was cancelled."""
        if not self._outcome.done() or self._outcome.cancelled():
            return None
        return self._outcome.exception()

    def cancel(self) -> None:
        """Ask the work to stop; `settled` returns when it has undone what it did."""
        self._task.cancel()

    async def result(self) -> T:
        """Wait for the outcome. A waiter that goes away does not end the work."""
        await asyncio.wait([self._outcome])
        if self._outcome.cancelled():
            raise NotReady("the work was given up")
        return self._outcome.result()

    async def settled(self, *, timeout_s: float | None = None) -> bool:
        """Wait until it has ended, in whatever way; say whether it has."""
        await asyncio.wait([self._outcome], timeout=timeout_s)
        return self._outcome.done()


class Background:
    """The worker's own task group, entered once by `main` (or by a test)."""

    def __init__(self) -> None:
        self._group = TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_ending = False

    async def __aenter__(self) -> Background:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_ending = True
        for task in list(self._tasks):
            task.cancel()
        await self._group.__aexit__(kind, error, trace)

    def start(self, work: Coroutine[Any, Any, T], *, name: str) -> OwnedTask[T]:
        """Run `work` to its end; a failure is logged under `name` and kept as the outcome."""
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        outcome.add_done_callback(_mark_as_seen)
        task = self._group.create_task(_run(work, outcome, name), name=name)
        self._tasks.add(task)

        def settle(ended: asyncio.Task[None]) -> None:
            self._tasks.discard(ended)
            if not outcome.done():  # cancelled before its first step
                work.close()
                outcome.cancel()

        task.add_done_callback(settle)
        if self._is_ending:  # begun by the way back of what was cancelled: nobody else would end it
            task.cancel()
        return OwnedTask(task, outcome)


async def _run(work: Coroutine[Any, Any, T], outcome: asyncio.Future[T], name: str) -> None:
    try:
        result = await work
    except asyncio.CancelledError:
        outcome.cancel()
        raise
    except SandfleetError as error:
        log.info("background_refused", task=name, code=error.code, reason=error.message)
        outcome.set_exception(error)
    except Exception as error:
        log.exception("background_failed", task=name)
        outcome.set_exception(error)
    else:
        if not outcome.done():
            outcome.set_result(result)


def _mark_as_seen(outcome: asyncio.Future[Any]) -> None:
    """Keep asyncio from complaining about failures that nobody waits for: they were logged."""
    if not outcome.cancelled():
        outcome.exception()
