"""The one place in the guest that reaps children: ours, and all orphans when we are the first process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from sandfleet.agent.loop import EventLoop

REAPED_AT_ONCE_MAX = 256


class Reaper:
    """Tells who waits for a child how it ended."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._waiting: dict[int, Callable[[int], None]] = {}
        loop.on_signal(signal.SIGCHLD, self.reap)

    def expect(self, pid: int, call: Callable[[int], None]) -> None:
        """Call with the wait status when `pid` has ended. Use in the turn of the loop that made the child."""
        self._waiting[pid] = call

    def reap(self) -> None:
        """Take the status of every child that has ended."""
        for _ in range(REAPED_AT_ONCE_MAX):
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            call = self._waiting.pop(pid, None)
            if call is not None:
                call(status)
        self._loop.call_soon(self.reap)
