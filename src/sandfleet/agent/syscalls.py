"""System calls that Python's library lacks."""

from __future__ import annotations

import ctypes
import os

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_NOATIME, MS_BIND = 2, 4, 8, 32, 1024, 4096
MS_RDONLY = 1
_RB_POWER_OFF = 0x4321FEDC

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, *, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Call mount(2)."""
    texts = (os.fsencode(source), os.fsencode(target), kind.encode() or None)
    _check(_libc.mount(*texts, ctypes.c_ulong(flags), options.encode() or None), target)


def power_off() -> None:
    """Call reboot(2): the machine is off at once."""
    _check(_libc.reboot(ctypes.c_int(_RB_POWER_OFF)), "power off")


def _check(result: int, about: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), about)
