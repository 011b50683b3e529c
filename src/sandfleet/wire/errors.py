"""Errors as HTTP answers: one table for the control plane and the worker."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sandfleet.model import errors as e

STATUS: Mapping[type[e.SandfleetError], int] = MappingProxyType(
    {
        e.BadRequest: 400,
        e.OffsetGone: 416,
        e.Unauthorised: 401,
        e.PlanLimit: 402,
        e.Forbidden: 403,
        e.NotFound: 404,
        e.Conflict: 409,
        e.Gone: 410,
        e.TooLarge: 413,
        e.SnapshotUnusable: 422,
        e.QuotaExceeded: 429,
        e.NotAvailable: 501,
        e.PortClosed: 502,
        e.Unavailable: 503,
        e.GuestUnresponsive: 504,
        e.GuestDiskFull: 507,
    }
)
_BY_CODE: Mapping[str, type[e.SandfleetError]] = MappingProxyType(
    {
        e.StaleEpoch.code: e.StaleEpoch,
        e.StaleVersion.code: e.StaleVersion,
        e.NoCapacity.code: e.NoCapacity,
        e.RateLimited.code: e.RateLimited,
        e.ExecFailed.code: e.ExecFailed,
        e.TargetUnavailable.code: e.TargetUnavailable,
        e.StoreUnavailable.code: e.StoreUnavailable,
        e.BlobsUnavailable.code: e.BlobsUnavailable,
        e.WorkerUnreachable.code: e.WorkerUnreachable,
    }
)


def status_of(error: e.SandfleetError) -> int:
    """Return the HTTP status of an error: that of its nearest class in the table, else 500."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def error_body(error: e.SandfleetError, *, request_id: str) -> dict[str, Any]:
    """Return the JSON body of an error answer."""
    body: dict[str, Any] = {"error": error.message, "code": error.code, "requestId": request_id}
    if error.details:
        body["details"] = error.details
    if error.code == "waking":
        body["waking"] = True  # a published client looks for this key, not for the code
    return body


def error_headers(error: e.SandfleetError) -> dict[str, str]:
    """Return the headers that belong to an error answer."""
    if isinstance(error, (e.Unavailable, e.RateLimited)):
        return {"Retry-After": str(max(1, error.retry_after_s))}
    return {}


def error_from(status: int, body: Mapping[str, Any]) -> e.SandfleetError:
    """Return the error that an answer of another process of the fleet stands for."""
    code = str(body.get("code", "internal"))
    kinds = {number: kind for kind, number in STATUS.items()}
    kind = _BY_CODE.get(code) or kinds.get(status, e.SandfleetError)
    details = body.get("details")
    return kind(
        str(body.get("error", f"HTTP {status}")),
        code=code,
        details=details if isinstance(details, Mapping) else None,
    )
