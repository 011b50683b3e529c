"""What can go wrong, classed by what the caller should do.

SandfleetError
├── BadRequest                the caller must change the request
│   ├── SizeOutOfRange        … with the range in `details`
│   └── OffsetGone            that output is no longer kept; `details` says what is
├── Unauthorised / Forbidden  the caller must change the credential
├── PlanLimit                 the size is above the organisation's own cap
├── NotFound                  no such thing (in this organisation)
├── Conflict                  the thing's present state forbids it
│   ├── StaleVersion          a compare-and-set changed zero rows: read again
│   ├── StaleTerm             a newer leader was elected: stop leading
│   ├── StaleLease            another holder has the operation: stop at once
│   ├── StaleEpoch            the worker knows a newer owner: look the route up again
│   └── IllegalTransition     the lifecycle table has no such move
├── Gone                      the sandbox has ended
├── TooLarge                  a body or a file is above its limit
├── QuotaExceeded             the organisation's quota is used up
│   └── RateLimited           … for the moment: try again later (`retry_after_s`)
├── Unavailable               try again later (`retry_after_s`)
│   ├── NoCapacity            no worker can take it within the queue's time
│   ├── NotReady              the waiting time is over
│   ├── StoreUnavailable      PostgreSQL cannot be reached
│   ├── BlobsUnavailable      the object store cannot be reached or does not do what it should
│   ├── WorkerUnreachable     the worker did not answer: says nothing about its sandboxes
│   ├── MachineRefused        a machine pool gives no machine; `failure` says for how long
│   └── PoolUnreachable       a machine pool did not answer: says nothing about what was asked of it
├── PortClosed                nothing in the guest listens on that port
├── GuestUnresponsive         the guest agent does not answer
├── GuestDiskFull             no space left inside the guest
├── NotAvailable              the feature is not configured on this server
├── ExecFailed                the program or its directory does not exist
├── SnapshotUnusable          a saved state is incomplete, damaged or made for another kind of machine
└── HypervisorFailed          QEMU or the host refused: the operation fails, the rest goes on
    └── MoveUndecided         a move has gone too far to be undone here: whoever ordered it decides

Each class carries the API's `code`; only the HTTP edge knows status numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sandfleet.model.launch import LaunchFailure


class SandfleetError(Exception):
    """Base of all errors that a caller may be told about."""

    code = "internal"

    def __init__(
        self, message: str, *, code: str | None = None, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = dict(details or {})
        if code is not None:
            self.code = code


class BadRequest(SandfleetError):
    """The request itself is wrong."""

    code = "bad_request"


class SizeOutOfRange(BadRequest):
    """Memory, disk or CPU outside what the fleet offers."""

    code = "memory_out_of_range"


class OffsetGone(BadRequest):
    """Output of an exec from an offset that is not kept (`oldest`), or that is not there yet (`newest`)."""

    code = "offset_gone"


class Unauthorised(SandfleetError):
    """No usable credential."""

    code = "missing_api_key"


class Forbidden(SandfleetError):
    """The credential does not allow this."""

    code = "forbidden"


class PlanLimit(SandfleetError):
    """The size is above the organisation's own per-sandbox cap."""

    code = "plan_limit"


class NotFound(SandfleetError):
    """The thing does not exist, or belongs to another organisation."""

    code = "not_found"


class Conflict(SandfleetError):
    """The present state of the thing forbids the request."""

    code = "conflict"


class StaleVersion(Conflict):
    """A compare-and-set found another version: read again and decide again."""

    code = "stale_version"


class StaleLease(Conflict):
    """The operation's lease belongs to somebody else now."""

    code = "stale_lease"


class StaleTerm(Conflict):
    """A newer leader was elected."""

    code = "stale_term"


class StaleEpoch(Conflict):
    """The worker knows a newer owner of the sandbox."""

    code = "moved"


class IllegalTransition(Conflict):
    """The lifecycle table has no such move."""

    code = "illegal_transition"


class Gone(SandfleetError):
    """The sandbox has ended."""

    code = "gone"


class TooLarge(SandfleetError):
    """A body or file is above its limit."""

    code = "too_large"


class QuotaExceeded(SandfleetError):
    """The organisation's quota is used up."""

    code = "quota_exceeded"


class _TriedLater(SandfleetError):
    """Says after how many seconds it may be otherwise."""

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: int = 1,
        code: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, code=code, details=details)
        self.retry_after_s = retry_after_s


class RateLimited(_TriedLater, QuotaExceeded):
    """The organisation does this faster than it may; after `retry_after_s` seconds it may again."""

    code = "rate_limited"


class Unavailable(_TriedLater):
    """Not now; try again after `retry_after_s` seconds."""

    code = "not_ready"


class NoCapacity(Unavailable):
    """No worker can take the sandbox."""

    code = "no_capacity"


class TargetUnavailable(Unavailable):
    """The worker that a sandbox is to move to cannot take it, or none can."""

    code = "target_unavailable"


class NotReady(Unavailable):
    """The sandbox did not become ready in the waiting time."""


class StoreUnavailable(Unavailable):
    """PostgreSQL cannot be reached."""

    code = "store_unavailable"


class BlobsUnavailable(Unavailable):
    """The object store cannot be reached, or does not do what it should."""

    code = "blobs_unavailable"


class WorkerUnreachable(Unavailable):
    """The worker did not answer. Nothing follows about its sandboxes."""

    code = "worker_unreachable"


class MachineRefused(Unavailable):
    """A machine pool gives no machine: there is none of that launch, and there will be none."""

    code = "machine_refused"

    def __init__(self, message: str, *, failure: LaunchFailure = LaunchFailure.BROKEN) -> None:
        super().__init__(message)
        self.failure = failure


class PoolUnreachable(Unavailable):
    """A machine pool did not answer, or not yet. Nothing follows: ask again, with the same launch."""

    code = "pool_unreachable"


class PortClosed(SandfleetError):
    """Nothing in the guest takes connections on the port."""

    code = "port_closed"


class GuestUnresponsive(SandfleetError):
    """The guest agent does not answer."""

    code = "agent_unresponsive"


class GuestDiskFull(SandfleetError):
    """No space left inside the guest."""

    code = "disk_full"


class NotAvailable(SandfleetError):
    """The feature is not configured on this server."""

    code = "not_available"


class ExecFailed(BadRequest):
    """The program or the working directory does not exist, or is not executable."""

    code = "exec_failed"


class SnapshotUnusable(SandfleetError):
    """A saved state cannot be loaded as it is; nothing else may be started in its place."""

    code = "snapshot_unusable"


class HypervisorFailed(SandfleetError):
    """QEMU or the host refused what was asked; the message says what."""

    code = "internal"


class MoveUndecided(HypervisorFailed):
    """The guest stands still, and whether it goes on here or elsewhere is not known here."""

    code = "move_undecided"
