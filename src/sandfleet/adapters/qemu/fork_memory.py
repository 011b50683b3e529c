"""The memory that forks of one snapshot share: loaded once into a file, mapped by each as a template's is.

Facts: a fork that loads alone pays for each page of the snapshot, and has all of them to itself.
One that maps what was loaded before it starts as a clone does, and holds what it changes.

Rule 1: the files have no names. They end with the last process that has them open or mapped, so
nothing is left behind, whatever becomes of this process.
Rule 2: they are sealed before anybody maps them: from then on nobody can write to them.
Rule 3: their pages have no holes, for the reason that a template's have none.
Rule 4: they are known by the digest of the memory that they were loaded from.
Rule 5: they take memory that no sandbox was promised. So they are few, are made only where much
more is free, and only for the third of a snapshot's forks that load at the same time.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from sandfleet.model.errors import HypervisorFailed

log = structlog.get_logger("sandfleet.engine")
MEMORIES_MAX = 4
ALONE_MAX = 2
"""So many forks that load at the same time cost less each on its own."""
FREE_FACTOR_MIN = 4
"""How many times what it takes must be free."""
_MEMINFO = Path("/proc/meminfo")
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(slots=True)
class ForkMemory:
    """Two open files: the pages of the base memory, and everything else of the snapshot's machine."""

    pages_fd: int
    devices_fd: int
    users: set[str] = field(default_factory=set)
    """The machines that map it."""

    @classmethod
    def new(cls, size_bytes: int) -> ForkMemory:
        """Make empty ones; OSError when the host has too little memory."""
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        pages = os.memfd_create("sandfleet-fork-pages", flags)
        try:
            os.posix_fallocate(pages, 0, size_bytes)
            return cls(pages, os.memfd_create("sandfleet-fork-devices", flags))
        except BaseException:
            os.close(pages)
            raise

    @property
    def pages(self) -> Path:
        """Return the path by which this process opens the pages anew."""
        return Path(f"/proc/self/fd/{self.pages_fd}")

    @property
    def devices(self) -> Path:
        """Return the path by which this process opens the rest anew."""
        return Path(f"/proc/self/fd/{self.devices_fd}")

    def let_write(self, uid: int) -> None:
        """Let the QEMU of this user fill the pages."""
        os.fchown(self.pages_fd, uid, uid)
        os.fchmod(self.pages_fd, 0o600)

    def seal(self) -> None:
        """Have nobody write to them any more; OSError while somebody still can."""
        for number in (self.pages_fd, self.devices_fd):
            os.fchown(number, os.geteuid(), os.getegid())
            os.fchmod(number, 0o444)
            fcntl.fcntl(number, fcntl.F_ADD_SEALS, _SEALS)

    def close(self) -> None:
        """Let go of them; machines that map them go on."""
        os.close(self.pages_fd)
        os.close(self.devices_fd)


Make = Callable[[], Awaitable[ForkMemory]]


@dataclass(slots=True)
class ForkMemories:
    """What this process keeps for forks to come: as long as one loads or runs on it."""

    _kept: dict[str, ForkMemory] = field(default_factory=dict)
    _loading: Counter[str] = field(default_factory=Counter)
    _making: dict[str, asyncio.Lock] = field(default_factory=dict)
    _refused: set[str] = field(default_factory=set)
    """Those that could not be made: not tried again before all that load now have ended."""

    @contextmanager
    def loading(self, digest: str) -> Iterator[None]:
        """Hold what forks of the memory with this digest share: one more of them waits or loads."""
        self._loading[digest] += 1
        try:
            yield
        finally:
            self._loading[digest] -= 1
            if not self._loading[digest]:
                del self._loading[digest]
                self._making.pop(digest, None)
                self._refused.discard(digest)
            self._let_go_of_unused()

    def forget(self, machine_id: str) -> None:
        """Note that a machine has ended."""
        for memory in self._kept.values():
            memory.users.discard(machine_id)
        self._let_go_of_unused()

    async def found_or_made(
        self, digest: str, *, size_bytes: int, make: Make, beside_bytes: int = 0
    ) -> ForkMemory | None:
        """Return the memory if there is one or this is the time to make it; None: load alone.

        It takes `size_bytes` for its pages, and up to `beside_bytes` for everything else.
        """
        if digest not in self._kept and self._loading[digest] <= ALONE_MAX:
            return None
        async with self._making.setdefault(digest, asyncio.Lock()):
            if digest not in self._kept and digest not in self._refused:
                try:
                    self._require_room(size_bytes, beside_bytes)
                    self._kept[digest] = await _made_at_second_try(make)
                except (HypervisorFailed, OSError) as error:
                    self._refused.add(digest)
                    log.warning("fork_memory_not_made", memory=digest[:16], reason=str(error))
            return self._kept.get(digest)

    def _require_room(self, size_bytes: int, beside_bytes: int) -> None:
        if len(self._kept) >= MEMORIES_MAX:
            raise HypervisorFailed(f"{MEMORIES_MAX} are in use")
        free = available_bytes(_MEMINFO.read_text())
        if free < FREE_FACTOR_MIN * size_bytes + beside_bytes:
            takes_mib = size_bytes + beside_bytes >> 20
            raise HypervisorFailed(f"it takes {takes_mib} MiB, and only {free >> 20} MiB are free")

    def _let_go_of_unused(self) -> None:
        for digest, memory in list(self._kept.items()):
            if not memory.users and not self._loading[digest]:
                del self._kept[digest]
                memory.close()


async def _made_at_second_try(make: Make) -> ForkMemory:
    # Where background saves cannot be had QEMU may end while it saves (`migration.save_apart` says why).
    # Nothing has come of it by then.
    try:
        return await make()
    except HypervisorFailed as error:
        log.info("fork_memory_made_again", reason=str(error))
        return await make()


def available_bytes(meminfo: str) -> int:
    """Return what the kernel says can be taken without swapping."""
    for line in meminfo.splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    return 0
