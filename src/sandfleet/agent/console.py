"""The agent's log: lines on its standard error, which is the guest's console."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback

LINE_BYTES_MAX = 4000


def say(text: str) -> None:
    """Write one line; a console that takes nothing is no reason to fail."""
    with contextlib.suppress(OSError):
        os.write(2, f"osb-agent: {text}\n".encode(errors="replace")[:LINE_BYTES_MAX])


def say_exception(doing: str) -> None:
    """Write the exception being handled."""
    say(f"{doing}: {''.join(traceback.format_exception(*sys.exc_info()))}")
