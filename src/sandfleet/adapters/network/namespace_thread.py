"""Work that must be done inside a network namespace: opening a tap, writing its sysctls.

A thread enters the namespace and ends afterwards, so that no pooled thread can
ever be left in the wrong one.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sandfleet.model.errors import HypervisorFailed

T = TypeVar("T")

NAMESPACE_DIRECTORY = Path("/run/netns")

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TAP_NO_PI = 0x0002 | 0x1000
_libc = ctypes.CDLL(None, use_errno=True)


async def inside(namespace: str, work: Callable[[], T]) -> T:
    """Run `work` on a thread of its own inside `namespace` and return its result."""

    def enter_and_work() -> T:
        handle = os.open(NAMESPACE_DIRECTORY / namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.setns(handle, _CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), namespace)
        finally:
            os.close(handle)
        return work()

    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"in-{namespace}")
    try:
        return await loop.run_in_executor(pool, enter_and_work)
    except OSError as error:
        raise HypervisorFailed(f"network namespace {namespace}: {error}") from error
    finally:
        pool.shutdown(wait=False)


def open_tap(name: str) -> int:
    """Return a descriptor attached to the tap `name` of this thread's namespace."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP_NO_PI))
    except OSError:
        os.close(tap)
        raise
    return tap


def write_sysctls(values: Mapping[str, str]) -> None:
    """Write settings of this thread's namespace; those that the kernel lacks are skipped (no IPv6, say)."""
    for name, value in values.items():
        path = Path("/proc/sys") / name
        if path.exists():
            path.write_text(value)
