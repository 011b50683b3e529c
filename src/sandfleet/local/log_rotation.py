"""Logs have a bound: a log that has grown too large is copied aside and emptied in place.

Services write with O_APPEND and never learn of it. At most two files per service are kept.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

LOG_BYTES_MAX = 16 * 2**20


def rotate(log: Path, *, bytes_max: int = LOG_BYTES_MAX) -> bool:
    """Move a large log's content to `<name>.1`; return whether that was done."""
    try:
        if log.stat().st_size <= bytes_max:
            return False
    except FileNotFoundError:
        return False
    previous = log.with_name(f"{log.name}.1")
    shutil.copyfile(log, previous)
    previous.chmod(0o600)
    os.truncate(log, 0)
    return True
