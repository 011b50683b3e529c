"""Fresh randomness from the host for this guest's generator."""

from __future__ import annotations

import fcntl
import os
import struct

_RNDADDENTROPY = 0x40085203
_RNDRESEEDCRNG = 0x5207


_device: list[int] = []


def open_device() -> None:
    """Open the generator for good. Done at boot, so that no clone has to."""
    if not _device:
        _device.append(os.open("/dev/urandom", os.O_RDWR | os.O_CLOEXEC))


def reseed(seed: bytes) -> None:
    """Mix `seed` in, count it as entropy, and make the generator use it from now on."""
    open_device()
    header = struct.pack("ii", len(seed) * 8, len(seed))
    fcntl.ioctl(_device[0], _RNDADDENTROPY, header + seed)
    try:
        fcntl.ioctl(_device[0], _RNDRESEEDCRNG)
    except OSError:
        return  # kernels before 4.20 do it by themselves
