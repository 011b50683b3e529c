"""Cutting the connections of a process from outside: QEMU may wait in one for a word that never comes.

While it does it answers nobody, so it cannot be told to let go of connections that it has made by itself.
Whoever owns the process may hold the same connections, and one that is shut down is so for all who hold it.
"""

from __future__ import annotations

import ctypes
import os
import socket
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_PIDFD_GETFD = 438
"""The number of this call is the same on all processors; Python has no name for it."""
_LIBC = ctypes.CDLL(None, use_errno=True)


def cut_connections(pid: int, *, host: str, port: int) -> int:
    """Shut down every connection of the process to there; return how many. OSError: it has ended."""
    process = os.pidfd_open(pid)
    try:
        return sum(_is_cut(process, number, (host, port)) for number in _sockets(pid))
    finally:
        os.close(process)


def _sockets(pid: int) -> list[int]:
    found = []
    for path in (_PROC / str(pid) / "fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(path).startswith("socket:"):
                found.append(int(path.name))
    return found


def _is_cut(process: int, number: int, peer: tuple[str, int]) -> bool:
    own = _LIBC.syscall(_PIDFD_GETFD, process, number, 0)
    if own < 0:  # closed meanwhile, or not to be had: then nothing can be done about it here
        return False
    with socket.socket(fileno=own) as held, suppress(OSError):  # some have no other side
        if held.family in (socket.AF_INET, socket.AF_INET6) and held.getpeername()[:2] == peer:
            held.shutdown(socket.SHUT_RDWR)
            return True
    return False
