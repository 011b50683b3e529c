"""The exit codes with which a shell would end for what happened in a sandbox."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandfleet_sdk import ExecResult


def exit_code(result: ExecResult) -> int:
    """Return the code a shell would see."""
    from sandfleet.cli.errors import ExitCode

    if result.timed_out:
        return int(ExitCode.EXEC_TIMED_OUT)
    if result.signal is not None and result.exit_code < 0:
        return 128 + signal_number(result.signal)
    return result.exit_code if 0 <= result.exit_code <= 255 else 1


def signal_number(name: int | str) -> int:
    """Return a signal's number, given as one or by its name."""
    if isinstance(name, int):
        return name
    known = name if name.startswith("SIG") else f"SIG{name}"
    return int(signal.Signals[known]) if known in signal.Signals.__members__ else 0
