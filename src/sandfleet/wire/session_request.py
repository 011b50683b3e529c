"""The bodies and queries of sessions and terminals, checked once for both sides of the proxy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sandfleet.model.errors import BadRequest
from sandfleet.wire import json_fields
from sandfleet.wire.exec_request import TIMEOUT_MAX_S, environment
from sandfleet.wire.session_frames import SCROLLBACK_BYTES_MAX

LINGER_MAX_S = 30 * 86400
SIGNAL_DEFAULT, SIGNAL_MAX = 9, 64
SHELL_DEFAULT = "/bin/bash"
COLS_DEFAULT, ROWS_DEFAULT, SIDE_MAX = 80, 24, 65535
_OFFSET_DIGITS_MAX = 18


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """A program to start as a session. Times of None have no limit."""

    argv: Sequence[str]
    envs: Mapping[str, str]
    cwd: str | None
    timeout_s: int | None
    linger_s: int | None


def session_request(fields: Mapping[str, object]) -> SessionRequest:
    """Return the request, never wrapped in a shell."""
    command = json_fields.text(fields, "cmd")
    if not command:
        raise BadRequest("cmd is required")
    return SessionRequest(
        argv=(command, *json_fields.texts(fields, "args")),
        envs=environment(fields),
        cwd=json_fields.text(fields, "cwd") or None,
        timeout_s=_seconds(fields, "timeout", TIMEOUT_MAX_S),
        linger_s=_seconds(fields, "maxRunAfterDisconnect", LINGER_MAX_S),
    )


def signal_of(fields: Mapping[str, object]) -> int:
    """Return the signal of a kill."""
    number = json_fields.integer(fields, "signal")
    number = SIGNAL_DEFAULT if number is None else number
    if not 1 <= number <= SIGNAL_MAX:
        raise BadRequest(f"signal must be between 1 and {SIGNAL_MAX}", code="invalid_argument")
    return number


def terminal_request(fields: Mapping[str, object]) -> SessionRequest:
    """Return the program of a terminal: a shell, or whatever stands in its place."""
    shell = json_fields.text(fields, "shell") or SHELL_DEFAULT
    return session_request({**fields, "cmd": shell})


def size_of(fields: Mapping[str, object]) -> tuple[int, int]:
    """Return columns and rows."""
    sides = []
    for name, default in (("cols", COLS_DEFAULT), ("rows", ROWS_DEFAULT)):
        side = json_fields.integer(fields, name) or default
        if not 1 <= side <= SIDE_MAX:
            raise BadRequest(f"{name} must be between 1 and {SIDE_MAX}", code="invalid_argument")
        sides.append(side)
    return sides[0], sides[1]


def offset_from(text: str | None) -> int | None:
    """Return the offset of a query; absent is None."""
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > _OFFSET_DIGITS_MAX:
        raise BadRequest("offset must be a number of bytes")
    return int(text)


def scrollback_from(text: str | None) -> int:
    """Return how much old output a terminal's client asks for."""
    count = offset_from(text) or 0
    return min(count, SCROLLBACK_BYTES_MAX)


def _seconds(fields: Mapping[str, object], name: str, most: int) -> int | None:
    seconds = json_fields.integer(fields, name)
    if not seconds:
        return None
    if seconds < 0:
        raise BadRequest(f"{name} must be zero or positive", code="invalid_argument")
    if seconds > most:
        raise BadRequest(f"{name} must be at most {most} seconds", code="invalid_argument")
    return seconds
