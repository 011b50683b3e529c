"""QEMU's process as the host sees it: who it is, whether it lives, its end, what it costs."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
from pathlib import Path

from sandfleet.adapters.qemu.manifest import ProcessIdentity
from sandfleet.model.errors import HypervisorFailed

PROC = Path("/proc")
BOOT_ID = PROC / "sys/kernel/random/boot_id"
_STATE_FIELD = 0
_START_TIME_FIELD = 19
_DEAD_STATES = frozenset("ZX")


def identify(pid: int) -> ProcessIdentity:
    """Return the identity of a running process."""
    fields = _stat_fields(pid)
    if fields is None:
        raise HypervisorFailed(f"process {pid} has ended")
    return ProcessIdentity(pid, int(fields[_START_TIME_FIELD]), _boot_id())


def is_running(process: ProcessIdentity) -> bool:
    """Whether exactly this process runs (a zombie does not)."""
    fields = _stat_fields(process.pid)
    if fields is None or process.boot_id != _boot_id():
        return False
    return (
        int(fields[_START_TIME_FIELD]) == process.started_ticks and fields[_STATE_FIELD] not in _DEAD_STATES
    )


class ProcessHandle:
    """A pidfd on one process: what is waited for and killed is that process and no later one."""

    def __init__(self, process: ProcessIdentity) -> None:
        self.process = process
        try:
            self._fd = os.pidfd_open(process.pid)
        except OSError as error:
            raise HypervisorFailed(f"process {process.pid} has ended") from error
        if not is_running(process):
            os.close(self._fd)
            raise HypervisorFailed(f"process {process.pid} has ended")

    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return bool(select.select([self._fd], [], [], 0)[0])

    async def ended(self) -> None:
        """Return when the process has ended, and reap it if it is our child."""
        if not self.has_ended():
            loop = asyncio.get_running_loop()
            gone: asyncio.Future[None] = loop.create_future()
            # A descriptor has one reader in the loop, so each wait watches one of its own.
            watched = os.dup(self._fd)
            loop.add_reader(watched, lambda: None if gone.done() else gone.set_result(None))
            try:
                await gone
            finally:
                loop.remove_reader(watched)
                os.close(watched)
        reap(self.process.pid)

    def kill(self) -> None:
        """Send SIGKILL."""
        try:
            signal.pidfd_send_signal(self._fd, signal.SIGKILL)
        except ProcessLookupError:
            return

    def close(self) -> None:
        """Give the descriptor back. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def reap(pid: int) -> None:
    """Collect an ended child; a process of an earlier worker is nobody's child here."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def memory_used_mib(pid: int) -> int:
    """Return the proportional share of host memory of `pid`, swap included."""
    try:
        text = (PROC / str(pid) / "smaps_rollup").read_text()
    except OSError as error:
        raise HypervisorFailed(f"memory of process {pid} cannot be read: {error}") from error
    amounts = dict(line.split(":", 1) for line in text.splitlines()[1:] if ":" in line)
    kib = sum(int(amounts.get(name, "0 kB").split()[0]) for name in ("Pss", "SwapPss"))
    return kib // 1024


def cpu_seconds(pid: int) -> float:
    """Return how long `pid` has kept CPUs busy."""
    fields = _stat_fields(pid)
    if fields is None:
        raise HypervisorFailed(f"the CPU time of process {pid} cannot be read")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def processes_of(uid: int) -> list[int]:
    """Return the pids whose real user is `uid`: a machine's uid is used by nothing else."""
    return [int(name) for name in os.listdir(PROC) if name.isdigit() and _owner(name) == uid]


def _owner(pid: str) -> int | None:
    try:
        for line in (PROC / pid / "status").read_text().splitlines():
            if line.startswith("Uid:"):
                return int(line.split()[1])
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH):
            raise
    return None


def _stat_fields(pid: int) -> list[str] | None:
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def _boot_id() -> str:
    return BOOT_ID.read_text().strip()
