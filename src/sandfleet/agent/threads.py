"""Threads for what may block on a disk, so that the loop never does."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from sandfleet.agent.console import say_exception

THREADS_MAX = 48
IDLE_S = 20.0
STACK_BYTES = 256 * 1024


class Threads:
    """Runs jobs, each in a thread of its own while it lasts; more than `THREADS_MAX` wait their turn."""

    def __init__(self) -> None:
        threading.stack_size(STACK_BYTES)
        self._jobs: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._idle = 0
        self._count = 0

    def run(self, job: Callable[[], None]) -> None:
        """Run `job` soon."""
        with self._changed:
            self._jobs.append(job)
            if self._idle >= len(self._jobs):
                self._changed.notify()
            elif self._count < THREADS_MAX:
                self._count += 1
                threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: bool(self._jobs), IDLE_S)
                self._idle -= 1
                if not self._jobs:
                    self._count -= 1
                    return
                job = self._jobs.popleft()
            try:
                job()
            except Exception:  # noqa: BLE001 -- a job that fails must not take its thread along
                say_exception("job")
