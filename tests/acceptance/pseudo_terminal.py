"""A command at a terminal of its own: keys go in, the screen's bytes come out, its size can change."""

from __future__ import annotations

import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fcntl import ioctl
from types import TracebackType
from typing import Any

_SEES_WITHIN_S = 120.0
_POLL_S = 0.2
_READ_BYTES = 65536


class PseudoTerminal:
    """Runs a command with its standard streams at a fresh terminal, as a user's terminal would."""

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str], rows: int, cols: int
    ) -> None:
        self._own, self._its = os.openpty()
        self._write_size(rows, cols)
        self.modes_before = self._modes()
        self.seen = b""
        self._searched = 0
        self.process = subprocess.Popen(
            command,
            stdin=self._its,
            stdout=self._its,
            stderr=self._its,
            env=dict(environment) | {"TERM": "xterm-256color"},
            start_new_session=True,
            preexec_fn=_take_terminal,
        )

    def __enter__(self) -> PseudoTerminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        os.close(self._own)
        os.close(self._its)

    def press(self, keys: bytes) -> None:
        """Type keys."""
        os.write(self._own, keys)

    def resize(self, *, rows: int, cols: int) -> None:
        """Change the size; the kernel signals those in the terminal's foreground."""
        self._write_size(rows, cols)

    def until(self, text: bytes) -> bytes:
        """Return what was shown from the last find to this text, which must come."""
        deadline = time.monotonic() + _SEES_WITHIN_S
        while (found := self.seen.find(text, self._searched)) < 0:
            assert time.monotonic() < deadline, f"{text!r} was never shown: {self.seen[-2000:]!r}"
            self._take()
        begin, self._searched = self._searched, found + len(text)
        return self.seen[begin : self._searched]

    def ended(self) -> int:
        """Return the exit code of a command that ends by now; the rest of the screen is in `seen`."""
        deadline = time.monotonic() + _SEES_WITHIN_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end: {self.seen[-2000:]!r}"
            self._take()
        while self._take():
            pass
        return self.process.returncode

    @property
    def is_restored(self) -> bool:
        """Whether the terminal's modes are those from before the command."""
        return self._modes() == self.modes_before

    def _take(self) -> bool:
        ready, _, _ = select.select([self._own], [], [], _POLL_S)
        if ready:
            self.seen += os.read(self._own, _READ_BYTES)
        return bool(ready)

    def _modes(self) -> list[Any]:
        return termios.tcgetattr(self._its)

    def _write_size(self, rows: int, cols: int) -> None:
        ioctl(self._own, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


def _take_terminal() -> None:
    ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
