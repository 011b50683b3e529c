"""Terminals: a pair of descriptors whose inner end controls a process's session.

Facts: reading the outer end fails with EIO when nobody holds the inner one any more;
that is its end of file. Setting the size tells the foreground process by SIGWINCH.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import termios
from dataclasses import dataclass

from sandfleet.agent.users import User

TTY_GROUP = 5
SIDE_MAX = 65535
TYPE = "xterm-256color"
_STDIN = 0


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """Columns and rows."""

    cols: int
    rows: int

    @property
    def is_valid(self) -> bool:
        """Whether a terminal can have this size."""
        return 1 <= self.cols <= SIDE_MAX and 1 <= self.rows <= SIDE_MAX


def open_terminal(size: TerminalSize, *, user: User | None) -> tuple[int, int]:
    """Return the outer and the inner end of a new terminal, the inner one the user's own."""
    outer, inner = os.openpty()
    try:
        resize(outer, size)
        if user is not None:
            os.fchown(inner, user.uid, TTY_GROUP)
            os.fchmod(inner, 0o620)
    except BaseException:
        os.close(outer)
        os.close(inner)
        raise
    return outer, inner


def resize(fd: int, size: TerminalSize) -> None:
    """Set the size; a terminal that has been hung up takes none."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.cols, 0, 0))


def take_control() -> None:
    """Make standard input the controlling terminal; called by the leader of a new session."""
    fcntl.ioctl(_STDIN, termios.TIOCSCTTY, 0)
