"""Start one process: own session and cgroup, user, directory, pipes.

`fork_exec` is what the standard library's subprocess module uses. That module
itself would wait for children and block until the program has been executed;
here the reaper waits, and a descriptor tells asynchronously what went wrong.
"""

from __future__ import annotations

import _posixsubprocess
import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sandfleet.agent.terminal import TerminalSize, open_terminal, take_control
from sandfleet.agent.users import User

PATH_DEFAULT = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HELPER = "/usr/lib/sandfleet/osb-enter"
"""Part of the guest image (`images/guest/osb-enter.c`)."""
OOM_SCORE_AGENT = b"-1000"


@dataclass(frozen=True, slots=True)
class Command:
    """What to start. `user` None keeps the agent's own; `cgroup_door` None joins none."""

    argv: Sequence[str]
    envs: Mapping[str, str]
    cwd: str
    user: User | None
    cgroup_door: int | None
    stdin: bool
    terminal: TerminalSize | None = None
    """The size of the terminal that is to be all three of its descriptors, None for pipes."""


@dataclass(frozen=True, slots=True)
class Spawned:
    """A child on its way: our ends of its pipes, nonblocking, and the pipe that tells of failure.

    `outputs` says of each descriptor which stream it is; a terminal is stream 1.
    """

    pid: int
    stdin: int | None
    outputs: Mapping[int, int]
    failure: int
    terminal: int | None = None


class Pipes:
    """The descriptors of one start; closes all that were not handed on."""

    def __init__(self) -> None:
        self._fds: set[int] = set()

    def __enter__(self) -> Pipes:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)

    def pipe(self) -> tuple[int, int]:
        """Return the reading and the writing end of a new pipe."""
        ends = os.pipe()
        self._fds.update(ends)
        return ends

    def copy(self, fd: int) -> int:
        """Return another descriptor of the same end."""
        fd = os.dup(fd)
        self._fds.add(fd)
        return fd

    def terminal(self, size: TerminalSize, *, user: User | None) -> tuple[int, int]:
        """Return the outer and the inner end of a new terminal."""
        ends = open_terminal(size, user=user)
        self._fds.update(ends)
        return ends

    def null(self) -> int:
        """Return /dev/null for reading."""
        fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._fds.add(fd)
        return fd

    def keep(self, fd: int) -> int:
        """Hand a descriptor on, made nonblocking."""
        os.set_blocking(fd, False)
        self._fds.discard(fd)
        return fd


def spawn(command: Command) -> Spawned:
    """Start `command`; whether its program could be executed comes through `failure` (`explain`)."""
    with Pipes() as pipes:
        if command.terminal is not None:
            return _spawn_in_terminal(command, pipes, command.terminal)
        stdin_end, stdin = pipes.pipe() if command.stdin else (pipes.null(), None)
        stdout, stdout_end = pipes.pipe()
        stderr, stderr_end = pipes.pipe()
        failure, failure_end = pipes.pipe()
        start = (
            _by_helper(command, pipes.copy(failure_end)) if _may_use_helper(command) else _by_fork(command)
        )
        pid = _fork_exec(
            command, start, ends=(stdin_end, stdout_end, stderr_end), failure=(failure, failure_end)
        )
        return Spawned(
            pid,
            stdin=None if stdin is None else pipes.keep(stdin),
            outputs={pipes.keep(stdout): 1, pipes.keep(stderr): 2},
            failure=pipes.keep(failure),
        )


def _spawn_in_terminal(command: Command, pipes: Pipes, size: TerminalSize) -> Spawned:
    """Start it by fork: the helper of short commands knows nothing of terminals."""
    outer, inner = pipes.terminal(size, user=command.user)
    failure, failure_end = pipes.pipe()
    pid = _fork_exec(command, _by_fork(command), ends=(inner, inner, inner), failure=(failure, failure_end))
    stdin = pipes.keep(pipes.copy(outer))
    return Spawned(
        pid,
        stdin=stdin,
        outputs={pipes.keep(outer): 1},
        failure=pipes.keep(failure),
        terminal=outer,
    )


@dataclass(frozen=True, slots=True)
class _Start:
    """How the child becomes its program: by itself as `user` through `join`, or by the helper."""

    argv: Sequence[str]
    programs: Sequence[str]
    kept: Sequence[int] = ()
    user: User | None = None
    join: Callable[[], None] | None = None


def _may_use_helper(command: Command) -> bool:
    has_both = command.user is not None and command.cgroup_door is not None
    return has_both and ":" not in command.argv[0] and os.path.exists(HELPER)


def _by_helper(command: Command, report: int) -> _Start:
    """Let the helper enter cgroup and user: it is started by vfork.

    A fork of this Python process would cost a translated guest more than the rest of a
    short command does. `report` is the helper's own descriptor of the failure pipe.
    """
    user, door = command.user, command.cgroup_door
    if user is None or door is None:
        raise ValueError("the helper enters a user and a cgroup")
    numbers = (door, report, user.uid, user.gid)
    groups = ":".join(map(str, user.groups))
    argv = ["osb-enter", *map(str, numbers), groups, ":".join(_candidates(command)), *command.argv]
    return _Start(argv, (HELPER,), kept=(door, report))


def _by_fork(command: Command) -> _Start:
    door, has_terminal = command.cgroup_door, command.terminal is not None

    def join() -> None:
        if door is not None:
            os.write(door, b"0")
        if has_terminal:
            take_control()

    needs_join = door is not None or has_terminal
    return _Start(command.argv, _candidates(command), user=command.user, join=join if needs_join else None)


def _fork_exec(command: Command, start: _Start, *, ends: Sequence[int], failure: tuple[int, int]) -> int:
    user = start.user
    arguments: tuple[Any, ...] = (
        [os.fsencode(part) for part in start.argv],
        tuple(os.fsencode(path) for path in start.programs),
        True,  # close descriptors
        tuple(sorted((failure[1], *start.kept))),
        os.fsencode(command.cwd),
        [os.fsencode(f"{name}={value}") for name, value in command.envs.items()],
        *(ends[0], -1, -1, ends[1], -1, ends[2]),
        *failure,
        True,  # restore signals
        True,  # new session
        -1,  # the session's own process group
        None if user is None else user.gid,
        None if user is None else list(user.groups),
        None if user is None else user.uid,
        0o022,
        start.join,
        True,  # vfork where it is safe
    )
    with _ordinary_victim():
        return _posixsubprocess.fork_exec(*arguments)


class _ordinary_victim:
    """Children are born with the agent's protection from the out-of-memory killer: lift it meanwhile."""

    fd: int | None = None

    def __enter__(self) -> None:
        if self.fd is not None:
            os.pwrite(self.fd, b"0", 0)

    def __exit__(self, *_: object) -> None:
        if self.fd is not None:
            os.pwrite(self.fd, OOM_SCORE_AGENT, 0)


def protect_agent() -> None:
    """Exempt this process from the out-of-memory killer."""
    fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    os.pwrite(fd, OOM_SCORE_AGENT, 0)
    _ordinary_victim.fd = fd


def _candidates(command: Command) -> Sequence[str]:
    program = command.argv[0]
    if "/" in program:
        return (program,)
    path = command.envs.get("PATH", PATH_DEFAULT)
    return tuple(os.path.join(directory or ".", program) for directory in path.split(":"))


def explain(report: bytes, command: Command) -> str:
    """Return in words what the failure pipe said."""
    kind, _, rest = report.partition(b":")
    digits, _, detail = rest.partition(b":")
    if kind != b"OSError" or not digits:
        return f"cannot start: {report.decode(errors='replace')}"
    number = int(digits, 16)
    reason = os.strerror(number)
    if detail.startswith(b"noexec") and number in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
        return f"cannot enter the directory {command.cwd}: {reason}"
    return f"cannot run {command.argv[0]}: {reason}"
