"""A stream for a job in a thread: reading and writing block there, never in the loop."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from sandfleet.agent.console import say_exception
from sandfleet.agent.failures import failure_of
from sandfleet.agent.loop import EventLoop
from sandfleet.agent.streams import Stream
from sandfleet.agent.threads import Threads
from sandfleet.wire.agent_messages import Code, Fields
from sandfleet.wire.channel import WINDOW_BYTES

OUTGOING_BYTES_MAX = 256 * 1024
CREDIT_STEP_BYTES = WINDOW_BYTES // 4

Job = Callable[["BlockingStream", Fields], Mapping[str, Any]]


class Cancelled(Exception):
    """The host is no longer interested: undo and leave."""


class BlockingStream:
    """The thread's end of a stream."""

    def __init__(self, loop: EventLoop, stream: Stream) -> None:
        self._loop = loop
        self._stream = stream
        self._changed = threading.Condition()
        self._incoming: deque[bytes] = deque()
        self._input_ended = False
        self._cancelled = False
        self._outgoing: deque[bytes] = deque()
        self._outgoing_bytes = 0
        self._owed = 0
        self._result: Mapping[str, Any] | None = None
        stream.on_data = self._on_data
        stream.on_input_end = self._on_input_end
        stream.on_abort = self._on_abort
        stream.produce = self._produce

    def read(self) -> bytes:
        """Return the next bytes, b"" at the end of the host's input."""
        with self._changed:
            self._changed.wait_for(lambda: self._incoming or self._input_ended or self._cancelled)
            if self._cancelled:
                raise Cancelled
            if not self._incoming:
                return b""
            data = self._incoming.popleft()
        self._owed += len(data)
        if self._owed >= CREDIT_STEP_BYTES:
            owed, self._owed = self._owed, 0
            self._loop.call_from_thread(lambda: self._stream.consumed(owed))
        return data

    def write(self, data: bytes) -> None:
        """Send bytes; returns when there is room for more."""
        with self._changed:
            self._changed.wait_for(lambda: self._outgoing_bytes < OUTGOING_BYTES_MAX or self._cancelled)
            if self._cancelled:
                raise Cancelled
            idle = not self._outgoing
            self._outgoing.append(data)
            self._outgoing_bytes += len(data)
        if idle:
            self._loop.call_from_thread(self._stream.wake)

    def check(self) -> None:
        """Raise `Cancelled` if the host gave up."""
        if self._cancelled:
            raise Cancelled

    def work(self, job: Job, fields: Fields) -> None:
        """Run `job` to its end and answer with what it returns or raises."""
        try:
            self._result = job(self, fields)
        except Cancelled:
            return
        except Exception as error:  # noqa: BLE001 -- every failure of a job is its answer
            failure = failure_of(error)
            if failure.code == Code.INTERNAL:
                say_exception("job")
            self._loop.call_from_thread(lambda: self._stream.fail(failure))
        else:
            self._loop.call_from_thread(self._stream.wake)

    def _produce(self, count: int) -> bytes | None:
        with self._changed:
            if not self._outgoing:
                if self._result is not None:
                    self._stream.finish(self._result)
                return None
            piece = self._outgoing.popleft()
            if len(piece) > count:
                self._outgoing.appendleft(piece[count:])
                piece = piece[:count]
            self._outgoing_bytes -= len(piece)
            self._changed.notify()
            return piece

    def _on_data(self, data: bytes) -> None:
        with self._changed:
            self._incoming.append(data)
            self._changed.notify()

    def _on_input_end(self) -> None:
        with self._changed:
            self._input_ended = True
            self._changed.notify()

    def _on_abort(self) -> None:
        with self._changed:
            self._cancelled = True
            self._changed.notify()


def run_in_thread(loop: EventLoop, threads: Threads, *, stream: Stream, fields: Fields, job: Job) -> None:
    """Answer `stream` by what `job` does in a thread."""
    blocking = BlockingStream(loop, stream)
    threads.run(lambda: blocking.work(job, fields))
