"""An event loop on virtual time: when nothing can run, time jumps to the next timer.

Rule 1: nothing here waits, and nothing comes from outside: no sockets, no threads, no clock.
Rule 2: everything that runs belongs to a `Process` (a context variable of its tasks) or to the
world. A paused process runs nothing; its timers and wake-ups collect, and run when it goes on.
Rule 3: one order for one seed. Handles run in the order in which they became due; tasks
hash by the order of their making, so that sets of them have one order too.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

T = TypeVar("T")

TURNS_AT_ONE_INSTANT_MAX = 200_000
"""More turns than that without time moving on are a loop that waits for nothing."""


class Stalled(Exception):
    """Nothing will ever happen again, or one instant never ends."""


class Process:
    """Something that can be stopped, continued and killed as a whole."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_paused = False
        self.is_dead = False
        self.backlog: deque[_Handle] = deque()
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.context = copy_context()
        self.context.run(_OWNER.set, self)

    def start(self, loop: VirtualLoop, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Run `work` in this process until it is killed."""
        task: asyncio.Task[T] = loop.create_task(work, name=name, context=self.context.copy())
        self.tasks[task] = None
        task.add_done_callback(self._ended, context=WORLD)
        return task

    def pause(self) -> None:
        """Run nothing until `resume`."""
        self.is_paused = True

    def resume(self, loop: VirtualLoop) -> None:
        """Go on where it stood, with everything that became due meanwhile."""
        self.is_paused = False
        loop.take_back(self.backlog)

    def kill(self, loop: VirtualLoop) -> None:
        """End at once: its links are dead first, so what unwinds has no effect on anybody."""
        self.is_dead = True
        self.resume(loop)
        for task in list(self.tasks):
            task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(task, None)
        if not task.cancelled():
            task.exception()


_OWNER: ContextVar[Process | None] = ContextVar("process", default=None)
WORLD = Context()
"""The context of what belongs to no process: the network, the databases, the faults."""


class _Handle:
    """What asyncio asks of a handle, and no more: most of a run is making these."""

    __slots__ = ("_args", "_callback", "_context", "_is_cancelled", "_when", "owner")

    def __init__(self, when: float, callback: Any, args: tuple[Any, ...], context: Context) -> None:
        self._when = when
        self._callback = callback
        self._args = args
        self._context = context
        self._is_cancelled = False
        self.owner = context.get(_OWNER)

    def cancel(self) -> None:
        """Do not run it."""
        self._is_cancelled = True
        self._callback = self._args = None  # type: ignore[assignment]

    def cancelled(self) -> bool:
        """Whether it will not run."""
        return self._is_cancelled

    def when(self) -> float:
        """Return when it is due."""
        return self._when

    def run(self) -> None:
        """Run it in its context."""
        self._context.run(self._callback, *self._args)


class _Task(asyncio.Task[Any]):
    def __init__(self, coro: Any, *, loop: VirtualLoop, name: str | None, context: Context | None) -> None:
        self.number = loop.next_number()
        super().__init__(coro, loop=loop, name=name or f"task-{self.number}", context=context)

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.AbstractEventLoop):
    """What asyncio asks of a loop, without anything that waits."""

    def __init__(self) -> None:
        self._now = 0.0
        self._ready: deque[_Handle] = deque()
        self._timers: list[tuple[float, int, _Handle]] = []
        self._numbers = 0
        self._is_running = False
        self.failures: list[dict[str, Any]] = []
        """What was told to the exception handler: errors that nobody looked at."""

    def next_number(self) -> int:
        """Return the next of the numbers by which everything here is ordered."""
        self._numbers += 1
        return self._numbers

    def run_until_complete(self, future: Any) -> Any:
        """Run until `future` is done and return its result."""
        asyncio._set_running_loop(self)
        self._is_running = True
        try:
            task: asyncio.Future[Any] = asyncio.ensure_future(future, loop=self)  # noqa: TID251 -- the root
            while not task.done():
                self._turn()
            return task.result()
        finally:
            self._is_running = False
            asyncio._set_running_loop(None)

    def _turn(self) -> None:
        """Run what is ready, or move time on to the next timer."""
        if not self._ready:
            self._jump()
        for _ in range(TURNS_AT_ONE_INSTANT_MAX):
            if not self._ready:
                return
            handle = self._ready.popleft()
            if handle.cancelled():
                continue
            owner = handle.owner
            if owner is not None and owner.is_paused:
                owner.backlog.append(handle)
            else:
                handle.run()
        raise Stalled("one instant never ends")

    def _jump(self) -> None:
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not timers:
            raise Stalled("nothing will ever happen again")
        self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            self._ready.append(heapq.heappop(timers)[2])

    def take_back(self, backlog: deque[_Handle]) -> None:
        """Have the handles of a process that was paused run."""
        self._ready.extend(backlog)
        backlog.clear()

    def time(self) -> float:
        """Return the virtual seconds since the beginning."""
        return self._now

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> _Handle:  # type: ignore[override]
        """Run it in this instant."""
        handle = _Handle(self._now, callback, args, copy_context() if context is None else context)
        self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> _Handle:  # type: ignore[override]
        """Run it after `delay` virtual seconds."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> _Handle:  # type: ignore[override]
        """Run it at that virtual time."""
        handle = _Handle(when, callback, args, copy_context() if context is None else context)
        heapq.heappush(self._timers, (when, self.next_number(), handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> Any:
        """Return a task whose hash is its number."""
        return _Task(coro, loop=self, name=name, context=context)

    def get_debug(self) -> bool:
        """Never: it costs time and finds nothing here."""
        return False

    def is_running(self) -> bool:
        """Whether `run_until_complete` is under way."""
        return self._is_running

    def is_closed(self) -> bool:
        """Never: there is nothing to close."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep what nobody looked at."""
        self.failures.append(context)
