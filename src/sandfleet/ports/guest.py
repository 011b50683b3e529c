"""The inside of one VM, as the worker uses it (adapter: `adapters/guest`).

The guest keeps execs and their output in its own memory, named by ids that the
caller chooses: starting an exec twice with one id runs it once, and reading its
output again from an offset loses nothing. So a worker that died needs no memory
of its own to go on.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """Columns and rows of a terminal."""

    cols: int = 80
    rows: int = 24


@dataclass(frozen=True, slots=True)
class ExecOrder:
    """One command to run inside the guest. `argv` is never wrapped in a shell here."""

    exec_id: str
    argv: Sequence[str]
    envs: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    timeout_s: float | None = None
    user: str = "sandbox"
    stdin: bool = False
    """False gives /dev/null."""
    terminal: TerminalSize | None = None
    """A terminal takes the place of all three streams; its output is stream 1."""
    linger_s: float | None = None
    """How long it may run after its last client has left. The guest only remembers it."""
    is_session: bool = False
    """True for one whose output is read by `attach`, if anybody does."""


@dataclass(frozen=True, slots=True)
class ExecOutput:
    """Bytes of one stream (1 stdout, 2 stderr) that begin at `offset` of the exec's merged log."""

    stream: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ExecStatus:
    """How an exec stands. `exit_code` is None while it runs and -1 after a signal."""

    exec_id: str
    argv: Sequence[str]
    running: bool
    exit_code: int | None
    signal: int | None
    timed_out: bool
    started_at_s: float
    ended_at_s: float | None
    output_bytes: int
    oldest_offset: int
    has_terminal: bool = False
    linger_s: float | None = None
    was_attached: bool = False
    is_session: bool = False


@dataclass(frozen=True, slots=True)
class ExecPlace:
    """Where in an exec's output an attachment begins: at `offset`, else so many bytes before its end."""

    offset: int | None = None
    scrollback_bytes: int = 0
    first_scrollback_bytes: int = 0
    """Takes the place of `scrollback_bytes` for the first who ever attaches."""


@dataclass(frozen=True, slots=True)
class StdinPlace:
    """Whose bytes are given and where among the writer's own they stand, so that none is taken twice."""

    writer: str
    position: int


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One directory entry or the stat of one path."""

    name: str
    path: str
    is_dir: bool
    size: int
    mode: int
    mtime_s: float


@dataclass(frozen=True, slots=True)
class GuestIdentity:
    """What makes a clone somebody: applied before anyone may use the guest.

    `seed` is fresh host randomness for the guest's generator; `envs` become the
    environment of every exec; the guest makes machine id and host keys anew the
    first time. `renew` does so again in a guest that already is somebody (a fork).
    Execs that warmed the guest up (ids `warm-…`) are forgotten.
    """

    host_name: str
    seed: bytes
    wall_clock_s: float
    envs: Mapping[str, str] = field(default_factory=dict)
    renew: bool = False
    is_known: bool = False
    """Whether this disk already is that sandbox's own: its guest, booted anew, keeps machine id and keys."""


@dataclass(frozen=True, slots=True)
class GuestStats:
    """Measured inside the guest. Bytes unless the name says otherwise."""

    memory_total: int
    memory_used: int
    memory_limit: int
    cpu_percent: float
    pids: int
    net_input: int
    net_output: int
    disk_total: int
    disk_used: int
    """Of the root and the data disk the fuller one."""
    uptime_s: float


class ExecAttachment(Protocol):
    """One client's view of an exec's output; nothing it has not acknowledged is forgotten meanwhile."""

    @property
    def status(self) -> ExecStatus:
        """How the exec stood when this began."""
        ...

    @property
    def start(self) -> int:
        """The offset of the first byte."""
        ...

    @property
    def replay_to(self) -> int:
        """Where what was there already ends, and what follows is live."""
        ...

    def pieces(self) -> AsyncIterator[ExecOutput]:
        """Yield output until the exec has ended and all is read."""
        ...

    def acknowledge(self, offset: int) -> None:
        """Say that everything before `offset` has reached the client. Never waits."""
        ...


class Guest(Protocol):
    """A live session with the agent of one VM.

    Every method raises `GuestUnresponsive` when the agent does not answer within
    its bound, `NotFound`/`BadRequest`/`ExecFailed`/`GuestDiskFull` for what it says.
    The adapter reconnects by itself after a broken channel; calls in flight that
    are safe to repeat (all but `write_stdin`) are repeated.
    """

    async def ping(self) -> None:
        """Return when the agent has answered."""
        ...

    async def assume_identity(self, identity: GuestIdentity) -> None:
        """Make this guest a new one: RNG, machine id, host name, host keys, clock, data disk, environment."""
        ...

    async def rehearse(self, identity: GuestIdentity) -> None:
        """Make this guest a new one and nobody again: what has run in a template is cheaper in its clones.

        `BadRequest` in a guest that is somebody, and by an agent of before this could be asked.
        """
        ...

    async def set_clock(self, wall_clock_s: float) -> None:
        """Step the guest's clock."""
        ...

    async def set_limits(self, *, memory_mib: int, cpu_percent: int, pids_max: int) -> None:
        """Set the limits of the cgroup that holds all user processes."""
        ...

    async def grow_disk(self) -> None:
        """Grow the data file system to its block device."""
        ...

    async def start_exec(self, order: ExecOrder) -> ExecStatus:
        """Start `order`, or return the status of the exec that already has its id."""
        ...

    def read_output(self, exec_id: str, *, offset: int = 0) -> AsyncIterator[ExecOutput]:
        """Yield output from `offset` on until the exec has ended and all is read.

        Back-pressure is the iteration itself: what is not taken stays in the guest.
        """
        ...

    def attach(self, exec_id: str, place: ExecPlace) -> AbstractAsyncContextManager[ExecAttachment]:
        """Attach to an exec; `NotFound`, or `OffsetGone` with what is kept in its details."""
        ...

    async def connect_port(self, connection_id: str, port: int) -> None:
        """Connect to a port of the guest, once per id; `PortClosed` when it takes no connection.

        From then on the id is attached to and written to as an exec's: its output is what
        the port says, and the end of its input hangs up. `list_execs` does not name it. It
        lasts as long as somebody is attached, and about a minute longer. `NotAvailable` by an
        agent of before this could be asked.
        """
        ...

    async def resize_exec(self, exec_id: str, size: TerminalSize) -> None:
        """Set the size of an exec's terminal."""
        ...

    async def wait_exec(self, exec_id: str, *, timeout_s: float | None = None) -> ExecStatus:
        """Return the status when the exec has ended, or as it is after `timeout_s`."""
        ...

    async def exec_status(self, exec_id: str) -> ExecStatus:
        """Return how the exec stands; `NotFound` when the guest does not know it."""
        ...

    async def list_execs(self) -> Sequence[ExecStatus]:
        """Return all execs the guest still knows."""
        ...

    async def write_stdin(
        self, exec_id: str, data: bytes, *, end: bool = False, place: StdinPlace | None = None
    ) -> None:
        """Give bytes to the exec's stdin; returns when the guest has room for more.

        With `place` it is safe to repeat, by whichever process.
        """
        ...

    async def kill_exec(self, exec_id: str, *, signal: int = 9) -> None:
        """Signal the process group; signal 9 kills the exec's whole cgroup."""
        ...

    async def stat(self, path: str) -> FileEntry:
        """Return what stands at `path`."""
        ...

    async def list_directory(self, path: str) -> Sequence[FileEntry]:
        """Return the entries by name."""
        ...

    async def make_directory(self, path: str) -> None:
        """Like `mkdir -p`."""
        ...

    async def delete(self, path: str) -> None:
        """Remove `path` and all below it; a missing one is no error."""
        ...

    def read_file(self, path: str) -> AsyncIterator[bytes]:
        """Yield the content. The first `anext` raises what is wrong with `path`."""
        ...

    async def write_file(self, path: str, chunks: AsyncIterable[bytes]) -> int:
        """Replace the file by what `chunks` yields, in one step at the end; return its size."""
        ...

    async def memory_total(self, *, at_least: int, wait_s: float) -> int:
        """Return how many bytes the guest can use: at once when it is `at_least`, else within `wait_s`."""
        ...

    async def stats(self) -> GuestStats:
        """Measure."""
        ...

    async def quiesce(self) -> None:
        """Sync and flush everything, so that memory and disk may be captured."""
        ...

    async def shut_down(self) -> None:
        """Ask the guest to power off cleanly."""
        ...

    async def close(self) -> None:
        """End the session; the guest runs on."""
        ...
