"""One supervisor per data directory: a file lock that the kernel frees with its holder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from sandfleet.local.layout import Layout


class AlreadySupervised(Exception):
    """Another supervisor has this data directory."""


@contextmanager
def supervisor_lock(layout: Layout) -> Iterator[None]:
    """Hold the fleet's lock; raise `AlreadySupervised` when somebody else does."""
    fd = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadySupervised(f"another supervisor runs the fleet in {layout.data_dir}") from None
        yield
    finally:
        os.close(fd)


def is_locked(layout: Layout) -> bool:
    """Say whether a supervisor holds the lock."""
    if not layout.lock.exists():
        return False
    try:
        with supervisor_lock(layout):
            return False
    except AlreadySupervised:
        return True
