"""Errors in the words of the API: what operations ended with, and what was raised on the way."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sandfleet.controlplane.http.error_codes import CODES
from sandfleet.model.errors import SandfleetError, Unavailable
from sandfleet.model.operation import Operation, OperationKind
from sandfleet.wire.errors import error_from

_INTERNAL = 500
TOLD_AS: Mapping[str, str] = MappingProxyType(
    {
        "busy": "operation_in_progress",
        "cancelled": "operation_in_progress",
        "conflict": "operation_in_progress",
        "illegal_transition": "operation_in_progress",
        "moved": "operation_in_progress",
        "stale_version": "operation_in_progress",
        "blobs_unavailable": "not_ready",
        "deadline_exceeded": "not_ready",
        "move_undecided": "not_ready",
        "stale_lease": "not_ready",
        "stale_term": "not_ready",
        "worker_gone": "not_ready",
        "machine_refused": "not_ready",
        "pool_unreachable": "not_ready",
        "worker_unreachable": "not_ready",
        "snapshot_unusable": "checkpoint_failed",
    }
)
"""What a worker or the fleet says of itself, in the words of the API: none of it is a defect."""
_OF_ITS_HOSTS = frozenset({SandfleetError.code, "not_found", "snapshot_unusable"})
"""What the hosts of a move say of its machine and its files; to the caller it would be of the sandbox."""
RETRY_AFTER_S = 5


def told(error: SandfleetError) -> SandfleetError:
    """Return the error as the API has a code for it."""
    code = TOLD_AS.get(error.code)
    if code is None:
        return error
    public = _error(code, error.message, error.details)
    if isinstance(public, Unavailable) and isinstance(error, Unavailable):
        public.retry_after_s = error.retry_after_s
    return public


def operation_error(operation: Operation) -> SandfleetError:
    """Return the error that ended the operation."""
    code = operation.error_code or SandfleetError.code
    message = operation.error_message or "the operation failed"
    if operation.kind is OperationKind.MIGRATE:
        code = _of_a_move(operation, code)
    error = _error(TOLD_AS.get(code, code), message, operation.progress.get("details") or {})
    if isinstance(error, Unavailable):
        error.retry_after_s = max(RETRY_AFTER_S, int(operation.progress.get("retry_after_s", 0)))
    return error


def _of_a_move(operation: Operation, code: str) -> str:
    """A move that failed on its hosts may go well at the next try, or elsewhere: it is no defect."""
    if code not in _OF_ITS_HOSTS and (code in CODES or code in TOLD_AS):
        return code
    return "no_capacity" if "memory_mib" in operation.arguments else "target_unavailable"


def _error(code: str, message: str, details: Mapping[str, Any]) -> SandfleetError:
    status, _ = CODES.get(code, (_INTERNAL, ""))
    return error_from(status, {"code": code, "error": message, "details": details or None})
