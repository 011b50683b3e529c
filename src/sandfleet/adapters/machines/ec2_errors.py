"""What EC2's errors mean for a launch: how long to leave a size alone, or that nothing is known.

# Facts
EC2 names its errors; the status is 400 for most of them and says nothing. Errors of the server (5xx), and
those of the way there, leave it open whether the call was carried out.
"""

from __future__ import annotations

from botocore.exceptions import BotoCoreError, ClientError

from sandfleet.model.errors import MachineRefused, PoolUnreachable, SandfleetError
from sandfleet.model.launch import LaunchFailure

_QUOTA = frozenset(
    {
        "InstanceLimitExceeded",
        "VcpuLimitExceeded",
        "MaxSpotInstanceCountExceeded",
        "MaxIOPSLimitExceeded",
        "VolumeLimitExceeded",
        "AddressLimitExceeded",
        "NetworkInterfaceLimitExceeded",
        "InsufficientFreeAddressesInSubnet",
        "PendingVerification",
        "Blocked",
    }
)
_STOCKOUT = frozenset(
    {
        "InsufficientInstanceCapacity",
        "InsufficientHostCapacity",
        "InsufficientReservedInstanceCapacity",
        "InsufficientCapacity",
        "InsufficientCapacityOnHost",
        "InsufficientVolumeCapacity",
        "SpotMaxPriceTooLow",
        "UnfulfillableCapacity",
        "Unsupported",
    }
)
_THROTTLED = frozenset(
    {
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
        "RequestThrottled",
        "RequestThrottledException",
        "EC2ThrottledException",
        "SlowDown",
        "BandwidthLimitExceeded",
    }
)
# A machine of this token is there, begun with other parameters: it is found by its tag.
_IN_DOUBT = frozenset({"IdempotentParameterMismatch", "RequestExpired"})
_SERVER_ERROR = 500


def launch_error(error: ClientError | BotoCoreError) -> SandfleetError:
    """Return what to raise for a launch that failed so."""
    if not isinstance(error, ClientError):
        return unreachable(error)
    code, message = _named(error)
    kinds = ((_QUOTA, LaunchFailure.QUOTA), (_STOCKOUT, LaunchFailure.STOCKOUT))
    for names, failure in (*kinds, (_THROTTLED, LaunchFailure.THROTTLED)):
        if code in names:
            return MachineRefused(f"{code}: {message}", failure=failure)
    if code in _IN_DOUBT or _status(error) >= _SERVER_ERROR:
        return unreachable(error)
    return MachineRefused(f"{code}: {message}", failure=LaunchFailure.BROKEN)


def unreachable(error: Exception) -> PoolUnreachable:
    """Return what to raise when nothing is known."""
    return PoolUnreachable(f"EC2 did not answer as it should: {error}")


def _named(error: ClientError) -> tuple[str, str]:
    told = error.response.get("Error", {})
    return str(told.get("Code", "")), str(told.get("Message", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
