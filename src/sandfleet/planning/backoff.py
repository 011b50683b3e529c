"""After a failed launch its pool or size is left alone for a while, longer each time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sandfleet.model.launch import LaunchFailure

FIRST_S: Mapping[LaunchFailure, float] = {
    LaunchFailure.THROTTLED: 10.0,
    LaunchFailure.BROKEN: 30.0,
    LaunchFailure.UNREACHABLE: 30.0,
    LaunchFailure.STOCKOUT: 120.0,
    LaunchFailure.QUOTA: 600.0,
}
_OF_THE_POOL = frozenset({LaunchFailure.THROTTLED, LaunchFailure.UNREACHABLE})
PAUSE_S_MAX = 3600.0
_DOUBLINGS_MAX = 10


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often it failed in a row, and until when nothing is asked."""

    failures: int
    until: datetime
    why: LaunchFailure

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {"failures": self.failures, "until": self.until.isoformat(), "why": self.why.value}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Backoff:
        """Return what `to_json` wrote."""
        return cls(value["failures"], datetime.fromisoformat(value["until"]), LaunchFailure(value["why"]))


def concerned(size: str, why: LaunchFailure) -> str:
    """Return what is left alone: the pool when it was asked too often or is silent, else the size."""
    return size.partition("/")[0] if why in _OF_THE_POOL else size


def after_failure(before: Backoff | None, why: LaunchFailure, *, at: datetime) -> Backoff:
    """Return the back-off after one more failure."""
    failures = 1 if before is None else before.failures + 1
    pause_s = min(FIRST_S[why] * 2 ** min(failures - 1, _DOUBLINGS_MAX), PAUSE_S_MAX)
    return Backoff(failures, at + timedelta(seconds=pause_s), why)


def refusal(backoffs: Mapping[str, Backoff], size: str, *, now: datetime) -> str | None:
    """Say why this size is not asked for now, None if it may be."""
    for key in (size, size.partition("/")[0]):
        backoff = backoffs.get(key)
        if backoff is not None and backoff.until > now:
            rest_s = (backoff.until - now).total_seconds()
            return f"{key} failed {backoff.failures} times ({backoff.why}): not before {rest_s:.0f} s"
    return None
