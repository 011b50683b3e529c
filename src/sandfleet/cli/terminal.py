"""A sandbox's terminal shown in this one: raw keys in, bytes out, the size kept the same."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sandfleet.cli.session_stream import READ_BYTES, code_of_signal, write_all

if TYPE_CHECKING:
    from sandfleet_sdk import Attachment, Client

LEAVE = b"\x1d"
"""Ctrl-]: leave, and let everything go on."""
_STDIN, _STDOUT = 0, 1


def size() -> tuple[int, int]:
    """Return columns and rows of this terminal."""
    try:
        found = os.get_terminal_size(_STDIN)
    except OSError:
        return 80, 24
    return max(1, found.columns), max(1, found.lines)


def show(client: Client, sandbox_id: str, terminal_id: str, *, offset: int = 0) -> int:
    """Show a terminal until its program ends or the user leaves; return the exit code."""
    has_left = threading.Event()
    with (
        client.sessions.attach_terminal(sandbox_id, terminal_id, offset=offset) as attachment,
        _raw_mode(),
        _same_size(client, sandbox_id, terminal_id),
    ):
        threading.Thread(target=_type, args=(attachment, has_left), daemon=True).start()
        for output in attachment:
            write_all(_STDOUT, output.data)
    if has_left.is_set():
        sys.stderr.write(f"\nleft; come back with: sandfleet attach {sandbox_id} {terminal_id}\n")
        return 0
    code = client.sessions.get_terminal(sandbox_id, terminal_id).exit_code
    return code if code is not None and code >= 0 else code_of_signal(client, sandbox_id, terminal_id)


def _type(attachment: Attachment, has_left: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(_STDIN, READ_BYTES):
            before, leaves, _ = data.partition(LEAVE)
            attachment.send(before)
            if leaves:
                has_left.set()
                attachment.close()
                return


@contextlib.contextmanager
def _raw_mode() -> Iterator[None]:
    """Hand every key on as it is, and put the terminal back afterwards whatever happens."""
    if not os.isatty(_STDIN):
        yield
        return
    before = termios.tcgetattr(_STDIN)
    tty.setraw(_STDIN)
    try:
        yield
    finally:
        termios.tcsetattr(_STDIN, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _same_size(client: Client, sandbox_id: str, terminal_id: str) -> Iterator[None]:
    """Tell the sandbox whenever this terminal's size changes."""
    changed, is_over = threading.Event(), threading.Event()
    changed.set()

    def tell() -> None:
        from sandfleet_sdk import SandfleetError

        while changed.wait() and not is_over.is_set():
            changed.clear()
            cols, rows = size()
            with contextlib.suppress(SandfleetError):  # the next change says it again
                client.sessions.resize(sandbox_id, terminal_id, cols=cols, rows=rows)

    def on_change(_number: int, _frame: Any) -> None:
        changed.set()

    before = signal.signal(signal.SIGWINCH, on_change)
    threading.Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
        is_over.set()
        changed.set()
