"""Blocking calls in threads of their own: who never answers takes none from anybody else.

# Facts
The event loop has a handful of threads for everybody, and a process waits at its end for each of them. A
call in a thread cannot be cancelled: whoever gives it up leaves the thread to it.

# Design
So many threads at most, given up ones among them; the next call waits for one. None is waited for when the
process ends.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


class OwnThreads:
    """Those of one caller."""

    def __init__(self, name: str, *, at_once: int) -> None:
        self._name = name
        self._free = asyncio.Semaphore(at_once)

    async def run(self, work: Callable[[], T]) -> T:
        """Return what the work returns, or raise what it raises."""
        await self._free.acquire()
        loop, ended = asyncio.get_running_loop(), Future[T]()
        ended.set_running_or_notify_cancel()  # from here on nobody can keep it from its end

        def in_thread() -> None:
            try:
                result = work()
            except Exception as error:  # noqa: BLE001 -- every failure of the work is its answer
                ended.set_exception(error)
            else:
                ended.set_result(result)
            with suppress(RuntimeError):  # the loop is gone, and everybody who could wait
                loop.call_soon_threadsafe(self._free.release)

        threading.Thread(target=in_thread, name=self._name, daemon=True).start()
        return await asyncio.wrap_future(ended)
