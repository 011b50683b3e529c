"""Checks of field values that several bodies share. They come after "does the sandbox exist"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from sandfleet.model.errors import BadRequest

ENVS_BYTES_MAX = 128 * 1024
INTEGER_MAX = 2**31 - 1
YEARS = (2000, 2200)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def invalid(message: str) -> BadRequest:
    """Return the error of a value that is not allowed."""
    return BadRequest(message, code="invalid_argument")


def checked_envs(envs: Mapping[str, str | None] | None) -> dict[str, str]:
    """Return environment variables without absent ones; their names and total size are checked."""
    kept = without_null(envs)
    for name, value in kept.items():
        if not _ENV_NAME.fullmatch(name):
            raise invalid("names in envs must match [A-Za-z_][A-Za-z0-9_]*")
        check_text("envs", value)
    if map_bytes(kept) > ENVS_BYTES_MAX:
        raise invalid(f"envs must not have more than {ENVS_BYTES_MAX} bytes in all")
    return kept


def without_null(values: Mapping[str, str | None] | None) -> dict[str, str]:
    """Return a map without its null values."""
    return {name: value for name, value in (values or {}).items() if value is not None}


def map_bytes(values: Mapping[str, str]) -> int:
    """Return how many bytes names and values have in UTF-8."""
    return sum(len(name.encode()) + len(value.encode()) for name, value in values.items())


def check_text(field: str, text: str) -> None:
    """Refuse NUL, which neither the store nor a process can take."""
    if "\0" in text:
        raise invalid(f"{field} must not contain NUL")


def moment_of(text: str, field: str) -> datetime:
    """Return the time that a client wrote; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise invalid(f"{field} must be a time as RFC 3339 has it") from None
    if not YEARS[0] <= moment.year < YEARS[1]:
        raise invalid(f"{field} must be between the years {YEARS[0]} and {YEARS[1]}")
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def checked_timeout(timeout: int) -> int:
    """Return an idle timeout that can be stored."""
    if timeout < 0:
        raise invalid("timeout must be zero or positive")
    if timeout > INTEGER_MAX:
        raise invalid(f"timeout must be at most {INTEGER_MAX}")
    return timeout
