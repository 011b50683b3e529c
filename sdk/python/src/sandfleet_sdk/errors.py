"""What can go wrong, as classes: by what the caller can do about it.

SandfleetError
├── Unreachable          no answer: the server is not there, or the connection broke
├── BadAnswer            an answer that no sandfleet server gives
└── ApiError             the server said no: `status`, `code`, `details`, `request_id`
    ├── BadRequest           400: change the request
    ├── Unauthorised         401: no credential, or one that has expired
    ├── PlanLimit            402: above the organisation's size cap
    ├── Forbidden            403: the credential does not allow it
    ├── NotFound             404
    ├── Conflict             409: the present state forbids it
    ├── Gone                 410: the sandbox has ended
    ├── TooLarge             413
    ├── QuotaExceeded        429
    │   └── RateLimited          … for the moment (`retry_after_s`)
    ├── Unavailable          503: not now (`retry_after_s`)
    │   └── NoCapacity           no worker had room within the queue's time
    ├── GuestUnresponsive    504
    └── GuestDiskFull        507
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class SandfleetError(Exception):
    """Base of everything that this package raises on purpose."""


class Unreachable(SandfleetError):
    """The server did not answer."""


class BadAnswer(SandfleetError):
    """The answer is not one of a sandfleet server: is the URL right?"""


class ApiError(SandfleetError):
    """The server refused; `code` is stable, the message is for people."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        details: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.details = dict(details or {})
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class BadRequest(ApiError):
    """The request must change."""


class Unauthorised(ApiError):
    """There is no usable credential."""


class PlanLimit(ApiError):
    """The size is above the organisation's own cap."""


class Forbidden(ApiError):
    """The credential does not allow this."""


class NotFound(ApiError):
    """No such thing in this organisation."""


class Conflict(ApiError):
    """The present state of the thing forbids the request."""


class Gone(ApiError):
    """The sandbox has ended."""


class TooLarge(ApiError):
    """A body or file is above its limit."""


class QuotaExceeded(ApiError):
    """The organisation's quota is used up."""


class RateLimited(QuotaExceeded):
    """The organisation creates faster than it may: try again after `retry_after_s`."""


class Unavailable(ApiError):
    """Not now: try again after `retry_after_s`."""


class NoCapacity(Unavailable):
    """The fleet is full."""


class GuestUnresponsive(ApiError):
    """The sandbox's agent does not answer."""


class GuestDiskFull(ApiError):
    """There is no space left inside the sandbox."""


_BY_CODE: Mapping[str, type[ApiError]] = {
    "no_capacity": NoCapacity,
    "rate_limited": RateLimited,
    "gone": Gone,
    "not_ready": Unavailable,
    "waking": Unavailable,
    "shutting_down": Unavailable,
    "store_unavailable": Unavailable,
    "worker_unreachable": Unavailable,
    "agent_unresponsive": GuestUnresponsive,
    "disk_full": GuestDiskFull,
    "exec_failed": BadRequest,
    "not_found": NotFound,
}
_BY_STATUS: Mapping[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthorised,
    402: PlanLimit,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    413: TooLarge,
    429: QuotaExceeded,
    503: Unavailable,
    504: GuestUnresponsive,
    507: GuestDiskFull,
}


def api_error(status: int, body: Mapping[str, Any], *, retry_after_s: float | None = None) -> ApiError:
    """Return the error that a body stands for, by its code first (a padded answer has status 200)."""
    code = str(body.get("code") or "internal")
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status, ApiError)
    details = body.get("details")
    return kind(
        str(body.get("error") or f"HTTP {status}"),
        status=status,
        code=code,
        details=details if isinstance(details, Mapping) else None,
        request_id=body.get("requestId"),
        retry_after_s=retry_after_s,
    )
