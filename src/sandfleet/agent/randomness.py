"""Fresh randomness from the host for this guest's generator."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct

_RNDADDENTROPY = 0x40085203
_RNDRESEEDCRNG = 0x5207


def reseed(seed: bytes) -> None:
    """Mix `seed` in, count it as entropy, and make the generator use it from now on."""
    fd = os.open("/dev/urandom", os.O_RDWR | os.O_CLOEXEC)
    try:
        header = struct.pack("ii", len(seed) * 8, len(seed))
        fcntl.ioctl(fd, _RNDADDENTROPY, header + seed)
        with contextlib.suppress(OSError):  # kernels before 4.20 do it by themselves
            fcntl.ioctl(fd, _RNDRESEEDCRNG)
    finally:
        os.close(fd)
