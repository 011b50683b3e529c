"""Making and entering network namespaces.

A namespace belongs to a thread. Each piece of work here has a thread of its own that
ends afterwards, so that no pooled thread can ever be left in the wrong one.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sandfleet.adapters.thread_work import to_its_end
from sandfleet.model.errors import HypervisorFailed

NAMESPACE_DIRECTORY = Path("/run/netns")
"""Where `ip netns` looks, so that an operator sees our namespaces with the usual tools."""

_T = TypeVar("_T")
_CLONE_NEWNET = 0x40000000
_MS_BIND = 4096
_MNT_DETACH = 2
_TUNSETIFF = 0x400454CA
_IFF_TAP_NO_PI = 0x0002 | 0x1000
_libc = ctypes.CDLL(None, use_errno=True)


async def create_with_tap(name: str, tap: str, *, sysctls: Mapping[str, str]) -> int:
    """Make the namespace `name` with a tap in it and return the tap's descriptor.

    Nothing stays when that fails, or when the caller is cancelled.
    """

    def create() -> int:
        NAMESPACE_DIRECTORY.mkdir(exist_ok=True, mode=0o755)
        path = NAMESPACE_DIRECTORY / name
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
        try:
            _check(_libc.unshare(_CLONE_NEWNET), name)
            source, target = b"/proc/thread-self/ns/net", os.fsencode(path)
            _check(_libc.mount(source, target, b"none", ctypes.c_ulong(_MS_BIND), None), name)
            _write_sysctls(sysctls)
            return _create_tap(tap)
        except BaseException:
            remove_namespace(name)
            raise

    def take_back(tap: int) -> None:
        os.close(tap)
        remove_namespace(name)

    return await _in_own_thread(create, name=name, take_back=take_back)


async def within(name: str, work: Callable[[], _T], *, take_back: Callable[[_T], None] | None = None) -> _T:
    """Return what `work` gives when a thread of its own does it inside the namespace `name`.

    A socket belongs to the namespace it was made in, whoever uses it afterwards. When the caller is
    cancelled, `take_back` gets what came of it.
    """

    def enter() -> _T:
        entrance = os.open(NAMESPACE_DIRECTORY / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(entrance, _CLONE_NEWNET), name)
        finally:
            os.close(entrance)
        return work()

    return await _in_own_thread(enter, name=name, take_back=take_back)


async def _in_own_thread(work: Callable[[], _T], *, name: str, take_back: Callable[[_T], None] | None) -> _T:
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"in-{name}")
    working = asyncio.get_running_loop().run_in_executor(pool, work)
    try:
        return await to_its_end(working, take_back=take_back)
    except OSError as error:
        raise HypervisorFailed(f"network namespace {name}: {error}") from error
    finally:
        pool.shutdown(wait=False)


def remove_namespace(name: str) -> None:
    """Remove the name; the kernel takes the namespace apart once nothing is in it. Idempotent."""
    path = NAMESPACE_DIRECTORY / name
    while _libc.umount2(os.fsencode(path), _MNT_DETACH) == 0:
        continue
    if ctypes.get_errno() not in (errno.EINVAL, errno.ENOENT):
        number = ctypes.get_errno()
        raise HypervisorFailed(f"namespace {name} cannot be removed: {os.strerror(number)}")
    path.unlink(missing_ok=True)


def _create_tap(name: str) -> int:
    """Make a tap in this thread's namespace and return its descriptor; the tap lives as long as that."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP_NO_PI))
    except OSError:
        os.close(tap)
        raise
    return tap


def _write_sysctls(values: Mapping[str, str]) -> None:
    """Write settings of this thread's namespace; those that the kernel lacks are skipped (no IPv6, say)."""
    for name, value in values.items():
        path = Path("/proc/sys") / name
        if path.exists():
            path.write_text(value)


def _check(result: int, name: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
