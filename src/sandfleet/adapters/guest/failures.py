"""The guest's error codes as errors of the model."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sandfleet.model import errors as e
from sandfleet.wire.agent_messages import Code

_KINDS: Mapping[str, type[e.SandfleetError]] = MappingProxyType(
    {
        Code.BAD_REQUEST: e.BadRequest,
        Code.IS_DIRECTORY: e.BadRequest,
        Code.NOT_A_DIRECTORY: e.BadRequest,
        Code.OFFSET_OUT_OF_RANGE: e.OffsetGone,
        Code.NOT_FOUND: e.NotFound,
        Code.DISK_FULL: e.GuestDiskFull,
        Code.EXEC_FAILED: e.ExecFailed,
        Code.CHANGED: e.Conflict,
        Code.BUSY: e.NotReady,
        Code.REFUSED: e.PortClosed,
    }
)

_PUBLIC_CODES: Mapping[str, str] = MappingProxyType(
    {Code.CHANGED: "conflict", Code.REFUSED: e.PortClosed.code, Code.OFFSET_OUT_OF_RANGE: e.OffsetGone.code}
)


def error_of(code: str, message: str, *, details: Mapping[str, Any]) -> e.SandfleetError:
    """Return the error that a guest's answer stands for. Codes that the guest invents become `internal`."""
    kind = _KINDS.get(code)
    if kind is None:
        return e.SandfleetError(f"the guest failed: {message}")
    if issubclass(kind, e.Unavailable):
        return kind(message)
    return kind(message, code=_public_code(code), details=details)


def _public_code(code: str) -> str:
    return _PUBLIC_CODES.get(code, code)
