"""Why an operation failed, as the error that its caller gets."""

from __future__ import annotations

from typing import Any

from sandfleet.controlplane.http.error_codes import CODES
from sandfleet.model.errors import SandfleetError, Unavailable
from sandfleet.model.operation import Operation
from sandfleet.wire.errors import error_from

_INTERNAL = 500
_TOLD_AS = {
    "busy": "operation_in_progress",
    "moved": "operation_in_progress",
    "deadline_exceeded": "not_ready",
    "worker_unreachable": "not_ready",
    "blobs_unavailable": "not_ready",
}
"""What a worker or the fleet says of itself, in the words of the API: none of it is a defect."""
RETRY_AFTER_S = 5


def operation_error(operation: Operation) -> SandfleetError:
    """Return the error that ended the operation."""
    code = operation.error_code or SandfleetError.code
    code = _TOLD_AS.get(code, code)
    status, _ = CODES.get(code, (_INTERNAL, ""))
    error = error_from(status, _body(code, operation))
    if isinstance(error, Unavailable):
        error.retry_after_s = max(RETRY_AFTER_S, int(operation.progress.get("retry_after_s", 0)))
    return error


def _body(code: str, operation: Operation) -> dict[str, Any]:
    message = operation.error_message or "the operation failed"
    return {"code": code, "error": message, "details": operation.progress.get("details") or None}
