"""Which process is it really: a pid together with the moment it started.

A pid alone may be reused, so whatever is kept in a file names a process by pid,
start time and boot. Signals go through a pidfd that was opened before the start
time was compared: they can never hit a stranger.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_STATE_FIELD = 0
_START_FIELD = 19
"""Positions in /proc/<pid>/stat after the command's closing parenthesis."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process, of one boot of this machine."""

    pid: int
    started_ticks: int
    boot_id: str


def boot_id() -> str:
    """Return the kernel's name of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> ProcessIdentity | None:
    """Return the identity of a living process, None if there is none (or only its zombie)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    if fields[_STATE_FIELD] in ("Z", "X"):
        return None
    return ProcessIdentity(pid, int(fields[_START_FIELD]), boot_id())


def is_alive(process: ProcessIdentity) -> bool:
    """Say whether exactly this process still runs."""
    return identify(process.pid) == process


def open_pidfd(process: ProcessIdentity) -> int | None:
    """Return a pidfd of exactly this process, None if it is gone. The caller closes it."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    if is_alive(process):
        return fd
    os.close(fd)
    return None


def send_signal(process: ProcessIdentity, number: signal.Signals) -> bool:
    """Send a signal; return False when the process is gone."""
    fd = open_pidfd(process)
    if fd is None:
        return False
    try:
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def wait_gone(process: ProcessIdentity, *, timeout_s: float) -> bool:
    """Wait until the process has ended; return False when the time is over first."""
    fd = open_pidfd(process)
    if fd is None:
        return True
    try:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        return bool(poller.poll(timeout_s * 1000))
    finally:
        os.close(fd)


def stop(process: ProcessIdentity, *, ask: signal.Signals = signal.SIGTERM, patience_s: float) -> bool:
    """Ask the process to end, kill it when it does not; return True when it ended by itself."""
    if not send_signal(process, ask) or wait_gone(process, timeout_s=patience_s):
        return True
    send_signal(process, signal.SIGKILL)
    wait_gone(process, timeout_s=10)
    return False


def reap(pid: int) -> None:
    """Collect the exit status of a child that has ended; other processes are left alone."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
