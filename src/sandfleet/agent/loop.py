"""The agent's event loop: descriptors, timers, signals and calls from threads.

Not asyncio: importing that costs a translated guest a tenth of a second and
megabytes in every clone, and edge-triggered descriptors are needed (a virtio
port whose host is away reports "hung up" for as long as it lasts).

A handler that raises is logged and the loop goes on.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable

from sandfleet.agent.console import say_exception

EVENTS_MAX = 64
CANCELLED_KEPT = 64


class Timer:
    """A call in the future, until cancelled."""

    __slots__ = ("_loop", "call")

    def __init__(self, loop: EventLoop, call: Callable[[], None]) -> None:
        self._loop = loop
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Forget the call."""
        if self.call is not None:
            self.call = None
            self._loop.count_cancelled()


class EventLoop:
    """Single-threaded; only `call_from_thread` may be used from elsewhere."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._cancelled = 0
        self._order = itertools.count()
        self._soon: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._running = False
        self.watch(self._wake, select.EPOLLIN, self._on_wake)

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Call `handler(events)` whenever `fd` is ready."""
        if fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        """Stop watching; call before closing `fd`."""
        if self._handlers.pop(fd, None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Timer:
        """Call once after `delay_s`."""
        timer = Timer(self, call)
        heapq.heappush(self._timers, (self.now() + delay_s, next(self._order), timer))
        return timer

    def count_cancelled(self) -> None:
        """Drop cancelled timers when they are most: a day's time-outs must not pile up."""
        self._cancelled += 1
        if self._cancelled > CANCELLED_KEPT and self._cancelled * 2 > len(self._timers):
            self._timers = [entry for entry in self._timers if entry[2].call is not None]
            heapq.heapify(self._timers)
            self._cancelled = 0

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call after the present handler."""
        self._soon.append(call)

    def call_from_thread(self, call: Callable[[], None]) -> None:
        """Call in the loop's thread."""
        self._soon.append(call)
        os.eventfd_write(self._wake, 1)

    def on_signal(self, number: int, call: Callable[[], None]) -> None:
        """Call in the loop when the signal comes."""
        signal.signal(number, lambda _number, _frame: self.call_from_thread(call))

    def stop(self) -> None:
        """Let `run` return."""
        self._running = False

    def run(self) -> None:
        """Serve until stopped."""
        self._running = True
        while self._running:
            self.run_once()

    def run_once(self) -> None:
        """Wait for what comes next and handle it."""
        for fd, events in self._epoll.poll(self._wait_s(), EVENTS_MAX):
            handler = self._handlers.get(fd)
            if handler is not None:
                try:
                    handler(events)
                except Exception:  # noqa: BLE001 -- the first process of a guest must not die
                    say_exception(f"handler of descriptor {fd}")
        self._run_timers()
        for _ in range(len(self._soon)):
            self._guarded(self._soon.popleft())

    def close(self) -> None:
        """Give the descriptors back."""
        self._epoll.close()
        os.close(self._wake)

    def _wait_s(self) -> float:
        if self._soon:
            return 0
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - self.now()) if self._timers else -1

    def _run_timers(self) -> None:
        now = self.now()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            call, timer.call = timer.call, None
            if call is not None:
                self._guarded(call)

    def _on_wake(self, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:  # noqa: BLE001 -- the first process of a guest must not die
            say_exception("deferred call")
