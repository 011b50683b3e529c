"""The way into an exec's standard input, with a bounded queue before it.

Who may have to send again names itself and says at which position of its own bytes
a piece stands: what was taken before is not taken twice.
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Callable

from sandfleet.agent.loop import EventLoop
from sandfleet.wire.agent_messages import STDIN_BUFFERED_BYTES_MAX, Code, OperationFailed

WRITERS_MAX = 256


class StdinPipe:
    """Takes bytes at any time; who gives them waits by `when_room` before giving more.

    Bytes for a process that no longer reads are dropped.
    """

    def __init__(
        self,
        loop: EventLoop,
        fd: int | None,
        *,
        has_end: bool = True,
        close: Callable[[int], None] = os.close,
    ) -> None:
        self._loop = loop
        self._close_fd = close
        self._fd = fd
        self._has_end = has_end
        self._writers: dict[str, int] = {}
        self._queue: deque[memoryview] = deque()
        self._size = 0
        self._ending = False
        self._waiting: list[Callable[[], None]] = []

    def put(self, data: bytes) -> None:
        """Queue bytes."""
        if self._fd is None or self._ending:
            return
        self._queue.append(memoryview(data))
        self._size += len(data)
        self._flush()

    def put_at(self, writer: str, position: int, data: bytes) -> None:
        """Queue what `writer` has not given before of the bytes that stand at its `position`."""
        taken = self._writers.pop(writer, 0)
        self._writers[writer] = taken  # the one used last stands last
        if position > taken:
            raise OperationFailed(Code.BAD_REQUEST, f"stdin between {taken} and {position} is missing")
        fresh = data[taken - position :]
        self._writers[writer] = taken + len(fresh)
        while len(self._writers) > WRITERS_MAX:
            del self._writers[next(iter(self._writers))]
        if fresh:
            self.put(fresh)

    def end(self) -> None:
        """Close the pipe when everything queued has been written; a terminal has no such end."""
        if not self._has_end:
            return
        self._ending = True
        self._flush()

    def when_room(self, call: Callable[[], None]) -> None:
        """Call when the queue is below its bound, at once if it is."""
        if self._size < STDIN_BUFFERED_BYTES_MAX:
            call()
        else:
            self._waiting.append(call)

    def close(self) -> None:
        """Give up what is queued."""
        self._queue.clear()
        self._size = 0
        if self._fd is not None:
            self._loop.forget(self._fd)
            self._close_fd(self._fd)
            self._fd = None
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()

    def _flush(self) -> None:
        if self._fd is None:
            return
        try:
            while self._queue:
                written = os.write(self._fd, self._queue[0])
                self._size -= written
                rest = self._queue.popleft()[written:]
                if rest:
                    self._queue.appendleft(rest)
        except BlockingIOError:
            self._loop.watch(self._fd, select.EPOLLOUT, self._on_room)
            return
        except OSError:
            self.close()
            return
        self._loop.forget(self._fd)
        if self._ending:
            self.close()

    def _on_room(self, _events: int) -> None:
        self._flush()
        while self._waiting and self._size < STDIN_BUFFERED_BYTES_MAX:
            self._waiting.pop(0)()
