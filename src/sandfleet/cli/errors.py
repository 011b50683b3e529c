"""What the command line says when something is wrong, and its exit codes.

    0    done
    1    refused or failed
    2    wrong usage
    3    the server cannot be reached
    4    no such sandbox, key or file
    5    no room: capacity or quota
    130  interrupted

`exec` passes the command's own code on; its own failures are 125 (could not run it),
124 (the time-out ended it) and 128 + n (signal n ended it).
"""

from __future__ import annotations

import json
import sys
from enum import IntEnum

from sandfleet_sdk import (
    ApiError,
    BadAnswer,
    Forbidden,
    Gone,
    NoCapacity,
    NotFound,
    QuotaExceeded,
    SandfleetError,
    Unauthorised,
    Unreachable,
)


class ExitCode(IntEnum):
    """The codes above."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    NO_ROOM = 5
    EXEC_TIMED_OUT = 124
    EXEC_FAILED = 125
    INTERRUPTED = 130


class CommandFailed(Exception):
    """A command cannot do what it was asked; the message is one sentence, the hint what to do."""

    def __init__(self, message: str, *, hint: str = "", code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code


_HINTS: tuple[tuple[type[SandfleetError], str], ...] = (
    (Unreachable, "is the fleet running? `sandfleet status` shows it, `sandfleet up` starts it"),
    (BadAnswer, "check --url, $SANDFLEET_URL and $OPENCOMPUTER_API_URL"),
    (Unauthorised, "give a key with --api-key or $SANDFLEET_API_KEY"),
    (Forbidden, "is it a key of this server, with the scope it needs? See `sandfleet key list`"),
    (NoCapacity, "remove sandboxes with `sandfleet rm`, or try again later"),
    (Gone, "`sandfleet events SANDBOX` shows what happened"),
)
_CODES: tuple[tuple[type[SandfleetError], ExitCode], ...] = (
    (Unreachable, ExitCode.UNREACHABLE),
    (NotFound, ExitCode.NOT_FOUND),
    (NoCapacity, ExitCode.NO_ROOM),
    (QuotaExceeded, ExitCode.NO_ROOM),
)


def exit_code_of(error: Exception) -> ExitCode:
    """Return the exit code an error stands for."""
    if isinstance(error, CommandFailed):
        return error.code
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.FAILED)


def hint_of(error: Exception) -> str:
    """Return what to do about an error, empty if there is nothing to say."""
    if isinstance(error, CommandFailed):
        return error.hint
    return next((hint for kind, hint in _HINTS if isinstance(error, kind)), "")


def report(error: Exception, *, as_json: bool) -> None:
    """Write an error to standard error: a line and a hint, or one JSON object."""
    if as_json:
        body: dict[str, object] = {"error": str(error), "hint": hint_of(error) or None}
        if isinstance(error, ApiError):
            body |= {"code": error.code, "status": error.status, "requestId": error.request_id}
        sys.stderr.write(json.dumps(body) + "\n")
        return
    sys.stderr.write(f"sandfleet: {error}\n")
    if hint := hint_of(error):
        sys.stderr.write(f"  {hint}\n")
    if isinstance(error, ApiError) and error.status >= 500 and error.request_id:
        sys.stderr.write(f"  request {error.request_id}\n")
