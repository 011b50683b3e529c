"""One exec: its process, pipes, output and end.

Its output is complete when the process has ended and its pipes are at their end,
or `GRACE_S` after the process if somebody else holds them: what those write later
is read and dropped.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sandfleet.agent.cgroups import Cgroup
from sandfleet.agent.exec_readers import Readers
from sandfleet.agent.loop import EventLoop, Timer
from sandfleet.agent.output_log import OutputLog
from sandfleet.agent.spawn import Spawned
from sandfleet.agent.stdin_pipe import StdinPipe
from sandfleet.agent.terminal import TerminalSize, resize
from sandfleet.wire.agent_messages import OperationFailed

READ_BYTES = 64 * 1024
GRACE_S = 1.0
LAST_READS_MAX = 16
_ENDS = frozenset({errno.EIO, errno.ECONNRESET, errno.ETIMEDOUT})
"""What reading says at the end of a terminal, and of a connection that was not ended well."""


def wall_clock() -> float:
    """Return seconds since the epoch."""
    return time.clock_gettime(time.CLOCK_REALTIME)


@dataclass(slots=True)
class ExecState:
    """What is told about an exec."""

    exec_id: str
    argv: list[str]
    started_at_s: float
    running: bool = True
    exit_code: int | None = None
    signal: int | None = None
    timed_out: bool = False
    ended_at_s: float | None = None
    has_terminal: bool = False
    linger_s: float | None = None
    """How long the host lets it run after its last client has left; kept here for the host's next process."""
    was_attached: bool = False
    is_session: bool = False
    """Whether its output waits for clients, instead of being read along by the host."""


@dataclass(slots=True)
class Hooks:
    """What an exec needs from those around it."""

    wall_clock: Callable[[], float]
    log_size_max: Callable[[], int]
    on_end: Callable[[Execution], None]


@dataclass(slots=True)
class Execution:
    """A process and what is kept of it. Lives in the loop's thread."""

    loop: EventLoop
    state: ExecState
    log: OutputLog
    hooks: Hooks
    cgroup: Cgroup | None = None
    pid: int = 0
    starting: bool = True
    failure: OperationFailed | None = None
    """Why it could not be started."""
    stdin: StdinPipe = field(init=False)
    readers: Readers = field(init=False)
    timer: Timer | None = None
    _terminal: int | None = None
    finished_at: float = 0.0
    _outputs: dict[int, int] = field(default_factory=dict)
    _paused: bool = False
    _exited: bool = False
    _grace_over: bool = False
    _waiting: list[Callable[[], None]] = field(default_factory=list)
    _awaiting_start: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stdin = StdinPipe(self.loop, None)
        self.readers = Readers(self.loop, on_progress=self.make_room)

    def take_pipes(self, spawned: Spawned) -> None:
        """Begin to serve the process."""
        self.pid = spawned.pid
        self.stdin = StdinPipe(self.loop, spawned.stdin, has_end=spawned.terminal is None)
        self._outputs = dict(spawned.outputs)
        self._terminal = spawned.terminal
        self._watch_outputs()

    def take_connection(self, fd: int, way_in: StdinPipe) -> None:
        """Be a connection instead of a process: it ends when the other side, or `way_in`, ends it."""
        self._exited = True
        self.stdin = way_in
        self.readers.slack_bytes = 0  # whoever acknowledges has it, and breaks off with it
        self._outputs = {fd: 1}
        self._watch_outputs()

    def describe(self) -> dict[str, Any]:
        """Return the status as the host is told it."""
        state = self.state
        return {
            "id": state.exec_id,
            "argv": state.argv,
            "running": state.running,
            "exit_code": state.exit_code,
            "signal": state.signal,
            "timed_out": state.timed_out,
            "started_at_s": state.started_at_s,
            "ended_at_s": state.ended_at_s,
            "output_bytes": self.log.end,
            "oldest_offset": self.log.oldest,
            "terminal": state.has_terminal,
            "linger_s": state.linger_s,
            "was_attached": state.was_attached,
            "session": state.is_session,
        }

    def final_status(self) -> dict[str, Any] | None:
        """Return the status if it will not change any more."""
        return None if self.state.running else self.describe()

    def when_started(self, call: Callable[[], None]) -> None:
        """Call when the program runs, or `failure` says why it cannot; at once if that is known."""
        if self.starting:
            self._awaiting_start.append(call)
        else:
            call()

    def on_started(self) -> None:
        """Handle that the program runs or has failed to."""
        self.starting = False
        waiting, self._awaiting_start = self._awaiting_start, []
        for call in waiting:
            call()

    def abandon(self) -> None:
        """Close everything: it was never started."""
        self._exited = True
        self.state.running = False
        self.stdin.close()
        for fd in list(self._outputs):
            self._close_output(fd)
        if self.timer is not None:
            self.timer.cancel()

    def when_ended(self, call: Callable[[], None]) -> None:
        """Call at the end, at once if it has come."""
        if self.state.running:
            self._waiting.append(call)
        else:
            call()

    def forget_waiter(self, call: Callable[[], None]) -> None:
        """Take a wish of `when_ended` back."""
        if call in self._waiting:
            self._waiting.remove(call)

    def on_exit(self, status: int) -> None:
        """Handle that the process was reaped."""
        self._exited = True
        code = os.waitstatus_to_exitcode(status)
        self.state.exit_code = code if code >= 0 else -1
        self.state.signal = -code if code < 0 else None
        self.state.ended_at_s = self.hooks.wall_clock()
        if self.timer is not None:
            self.timer.cancel()
        self.stdin.close()
        if self._outputs:
            self.timer = self.loop.call_later(GRACE_S, self._on_grace_over)
        else:
            self._complete()

    def expire(self) -> None:
        """End it because its time is over."""
        if not self._exited:
            self.state.timed_out = True
            self.kill(signal.SIGKILL)

    def kill(self, number: int) -> None:
        """Signal the process group; SIGKILL reaches the whole cgroup."""
        if not self.pid:  # a connection, or what was never started
            self.stdin.close()
            return
        if self._exited:
            return
        if number == signal.SIGKILL and self.cgroup is not None:
            self.cgroup.kill()
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            os.kill(self.pid, number)

    def resize(self, size: TerminalSize) -> None:
        """Set the size of the terminal; one that has ended takes any."""
        if self._terminal is not None:
            resize(self._terminal, size)

    def make_room(self) -> None:
        """Forget old output as far as readers allow, and pause or go on reading accordingly."""
        has_room = self.log.trim(self.hooks.log_size_max(), needed_from=self.readers.needed_from())
        self.readers.drop_overtaken(self.log)
        if not self.state.running:
            return
        if has_room and self._paused:
            self._paused = False
            self._watch_outputs()
            if self._grace_over:
                self._on_grace_over()
        elif not has_room and not self._paused:
            self._paused = True
            for fd in self._outputs:
                self.loop.forget(fd)

    def _watch_outputs(self) -> None:
        for fd in self._outputs:
            self.loop.watch(fd, select.EPOLLIN, lambda _events, fd=fd: self._on_output(fd))  # type: ignore[misc]

    def _on_output(self, fd: int) -> None:
        self._read(fd)
        if self._exited and self.state.running and not self._outputs:
            self._complete()

    def _read(self, fd: int) -> bool:
        """Read once; return whether there may be more now."""
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _ENDS:
                raise
            data = b""
        if not data:
            self._close_output(fd)
            return False
        if self.state.running:
            self.log.append(self._outputs[fd], data)
            self.make_room()
            self.readers.wake_all()
        return not self._paused

    def _close_output(self, fd: int) -> None:
        self.loop.forget(fd)
        os.close(fd)
        del self._outputs[fd]
        if fd == self._terminal:
            self._terminal = None

    def _on_grace_over(self) -> None:
        """Take what is in the pipes, then call the output complete, whoever still holds them."""
        self._grace_over = True
        if not self.state.running:
            return
        for fd in list(self._outputs):
            for _ in range(LAST_READS_MAX):
                if not self._read(fd):
                    break
        if not self._paused:
            self._complete()

    def _complete(self) -> None:
        self.state.running = False
        self.stdin.close()
        if self.timer is not None:
            self.timer.cancel()
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()
        self.readers.wake_all()
        self.hooks.on_end(self)
