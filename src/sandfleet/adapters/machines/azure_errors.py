"""What Azure's errors mean for a launch: how long to leave a size alone, or that nothing is known.

# Facts
The status says little: 409 is a full quota, a size that is sold out, and another call that is under way. The
error has a code, and a full quota of cores has the code of everything that is not allowed: only its text says
"quota". What is found out after the call was accepted stands in the machine's statuses, under the same codes.
"""

from __future__ import annotations

from azure.core.exceptions import AzureError, HttpResponseError

from sandfleet.model.errors import MachineRefused, PoolUnreachable, SandfleetError
from sandfleet.model.launch import LaunchFailure

_QUOTA = frozenset(
    {
        "QuotaExceeded",
        "ResourceQuotaExceeded",
        "MaxStorageAccountsCountPerSubscriptionExceeded",
        "PublicIPCountLimitReached",
        "NetworkInterfaceCountLimitReached",
        "SubnetIsFull",
    }
)
_STOCKOUT = frozenset(
    {
        "SkuNotAvailable",
        "AllocationFailed",
        "ZonalAllocationFailed",
        "OverconstrainedAllocationRequest",
        "OverconstrainedZonalAllocationRequest",
    }
)
_THROTTLED = frozenset(
    {
        "TooManyRequests",
        "OperationThrottled",
        "SubscriptionRequestsThrottled",
        "ResourceCollectionRequestsThrottled",
    }
)
# Another call on the same name is under way, or what it stands on is not ready yet.
_IN_DOUBT = frozenset(
    {
        "AnotherOperationInProgress",
        "RetryableError",
        "RetryableErrorDueToAnotherOperation",
        "ReferencedResourceNotProvisioned",
        "OperationPreempted",
        "Conflict",
    }
)
_NOT_ALLOWED = "OperationNotAllowed"
_TIMED_OUT, _TOO_MANY, _SERVER_ERROR = 408, 429, 500


def launch_error(error: AzureError) -> SandfleetError:
    """Return what to raise for a launch that failed so."""
    if not isinstance(error, HttpResponseError) or error.response is None:
        return unreachable(error)
    code, status = code_of(error), error.status_code or 0
    if code in _IN_DOUBT or status >= _SERVER_ERROR or status == _TIMED_OUT:
        return unreachable(error)
    message = _message_of(error)
    failure = LaunchFailure.THROTTLED if status == _TOO_MANY else failure_of(code, message)
    return MachineRefused(f"{code}: {message}", failure=failure)


def failure_of(code: str, message: str) -> LaunchFailure:
    """Return the kind of failure that a code stands for."""
    if code in _QUOTA or (code == _NOT_ALLOWED and "quota" in message.lower()):
        return LaunchFailure.QUOTA
    if code in _STOCKOUT:
        return LaunchFailure.STOCKOUT
    return LaunchFailure.THROTTLED if code in _THROTTLED else LaunchFailure.BROKEN


def is_in_doubt(error: HttpResponseError) -> bool:
    """Whether another call on the same name is under way."""
    return code_of(error) in _IN_DOUBT


def unreachable(error: Exception) -> PoolUnreachable:
    """Return what to raise when nothing is known."""
    return PoolUnreachable(f"Azure did not answer as it should: {error}")


def code_of(error: HttpResponseError) -> str:
    """Return Azure's name for the error."""
    return str(getattr(error.error, "code", None) or error.status_code or "")


def inner_code_of(error: HttpResponseError) -> str:
    """Return what Azure says more exactly, inside the error."""
    inner = getattr(error.error, "innererror", None) or {}
    return str(inner.get("code", ""))


def _message_of(error: HttpResponseError) -> str:
    return str(getattr(error.error, "message", None) or error.message)
